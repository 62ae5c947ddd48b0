"""Features in the plane, to be looked at."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from decrop.errors import InputError

# Neighbours that count for a point, where there are enough points (van der Maaten's own default).
_PERPLEXITY = 30.0


def t_sne(features: ArrayLike, *, seed: int) -> NDArray[np.float64]:
    """Embed features in the plane so that near ones stay near; distances far apart mean little.

    The gradient is the exact one, whose sums do not depend on the number of threads, so equal
    arguments give equal points. Its cost grows with the square of n: for some hundreds of points.

    Source: van der Maaten and Hinton 2008, as scikit-learn computes it.

    Args:
        features: floats [n, F], n >= 3, F >= 2.
        seed: of the initialisation.

    Returns:
        float64 [n, 2] in arbitrary units; all 0 where the features are all equal.

    Raises:
        InputError: there are too few points or features.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 2:
        raise InputError(f"features {values.shape} must be at least 3 points of 2 features each.")
    if (values == values[0]).all():
        return np.zeros((len(values), 2))
    # Imported where it is used: it takes a second, which drawing other figures can do without.
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, init="pca", method="exact", random_state=seed % 2**32)
    return np.asarray(embedding.fit_transform(values), dtype=np.float64)
