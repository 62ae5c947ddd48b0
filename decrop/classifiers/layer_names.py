"""Names of a network's layers, in messages."""

import difflib

from decrop.errors import InputError

_LISTED = 8


def unknown_layer(name: str, known: list[str]) -> InputError:
    """Return the error that a network has no layer of a name, with the likeliest ones."""
    near = difflib.get_close_matches(name, known, n=3)
    last = [other for other in known if other not in near]
    candidates = [*near, *last[-(_LISTED - len(near)) :]]
    return InputError(
        f"classifier.feature_layer: the network has no layer {name!r}; candidates are "
        f"{', '.join(candidates) or 'none'}."
    )
