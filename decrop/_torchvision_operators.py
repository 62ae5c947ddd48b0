"""Schemas of torchvision's operators, where the operators themselves do not load.

PyPI has no CPU build of torchvision, and beside a CPU build of PyTorch the compiled operators of
the CUDA build do not load, so that `import torchvision` fails while registering its fake kernels.
Declaring the schemas those kernels refer to is enough for datasets, transforms and models. Whatever
unpickles networks of torchvision's imports this module before.
"""

import importlib.util
from pathlib import Path

import torch

_MISSING_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for extension in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(extension)
            return True
        except OSError:
            continue
    return False


_library: torch.library.Library | None = None
if not _compiled_operators_load():
    # Declarations live as long as the object that made them.
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in _MISSING_SCHEMAS:
        _library.define(_schema)
