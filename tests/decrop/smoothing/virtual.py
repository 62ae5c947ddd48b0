"""Images of which only the class probabilities under noise exist."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decrop.smoothing.sampling import CountRequest


class VirtualSampler:
    """Samples classes with given probabilities (`decrop.smoothing.Sampler`).

    Attributes:
        requests: all that it has answered.
    """

    def __init__(self, probabilities: NDArray[np.float64], seed: int) -> None:
        """Take probabilities float64 [B, K], rows summing to 1."""
        self.requests: list[CountRequest] = []
        self._probabilities = probabilities
        self._generator = np.random.default_rng(seed)

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1], no sample of them not finite."""
        self.requests.extend(requests)
        images = [request.image for request in requests]
        samples = [request.samples for request in requests]
        counts = self._generator.multinomial(samples, self._probabilities[images])
        return np.hstack([counts, np.zeros((len(requests), 1), dtype=np.int64)])
