"""Certified robustness for pretrained classifiers from little data (DE-CROP)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decrop.bundle.smoothed_classifier import SmoothedClassifier, load

__all__ = ["SmoothedClassifier", "load"]


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import, which `decrop --help` and others do without (PEP 562).
    if name in __all__:
        from decrop.bundle import smoothed_classifier

        return getattr(smoothed_classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
