"""The measuring settings: those that decide how a trial is measured, not what it trains."""

from collections.abc import Collection

# Paths of settings and of whole groups. A search over one of them would be rewarded for a weaker
# guarantee, easier images or a luckier measurement.
MEASURING = (
    "sigma",
    "dataset",
    "limited",
    "certification",
    # Held-out scores are through the surrogate.
    "classifier.surrogate",
    "classifier.endpoint",
    "execution.device",
    "execution.precision",
    "execution.layout",
    "execution.chunk_size",
    "execution.chunks_per_batch",
)
# Of those, what figures vary whose rows are certified on the same test images.
VARIED_BY_TABLES = (
    "sigma",
    "limited",
    "classifier.surrogate",
    "classifier.endpoint",
    "execution.precision",
)


def measures(path: str, settings: Collection[str] = MEASURING) -> bool:
    """Return whether a dotted path is one of `settings` or lies in one of their groups."""
    return any(path == name or path.startswith(f"{name}.") for name in settings)
