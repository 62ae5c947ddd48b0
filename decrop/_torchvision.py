"""The one place that imports torchvision: other modules take it from here."""

import decrop._torchvision_operators  # noqa: F401, I001
import torchvision

__all__ = ["torchvision"]
