"""Programs of torch.export for tests."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.export import Dim, export, save

from tests.decrop.classifiers.factories import make


def program_of(
    network: nn.Module | None = None,
    shape: tuple[int, ...] = (1, 6, 6),
    *,
    batch: int | None = None,
) -> bytes:
    """Export a network in the mode it is in, for any batch or for one size."""
    network = make().eval() if network is None else network
    dynamic = None if batch else ({0: Dim("batch")},)
    exported = export(network, (torch.zeros(batch or 2, *shape),), dynamic_shapes=dynamic)
    file = io.BytesIO()
    save(exported, file)
    return file.getvalue()


def rewritten(program: bytes, changes: Mapping[str, Callable[[bytes], bytes] | bytes]) -> bytes:
    """Replace records of a program's archive, or add them."""
    source, file = zipfile.ZipFile(io.BytesIO(program)), io.BytesIO()
    left = dict(changes)
    with zipfile.ZipFile(file, "w") as target:
        for info in source.infolist():
            root, _, name = info.filename.partition("/")
            change = left.pop(name, source.read(info))
            target.writestr(info, change(source.read(info)) if callable(change) else change)
        for name, content in left.items():
            assert isinstance(content, bytes)
            target.writestr(f"{root}/{name}", content)
    return file.getvalue()


def model_changed(program: bytes, change: Callable[[Any], None]) -> bytes:
    """Change the JSON that describes a program."""

    def apply(content: bytes) -> bytes:
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return rewritten(program, {"models/model.json": apply})
