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


def compressed(program: bytes) -> bytes:
    """Pack a program's records with compression."""
    source, file = zipfile.ZipFile(io.BytesIO(program)), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return file.getvalue()


def two_faced(
    program: bytes, changes: Mapping[str, Callable[[bytes], bytes] | bytes], shown: bytes
) -> bytes:
    """Build an archive that PyTorch reads with changes of a program, and Python as another one.

    Python takes an archive for one that was appended to something else, and corrects the position
    of its directory; PyTorch takes the position as it stands.
    """
    filler = "extra/filler"
    sizes = [_directory_at(rewritten(program, {**changes, filler: b""}))]
    sizes.append(_directory_at(rewritten(shown, {filler: b""})))
    padding = [bytes(max(sizes) - size) for size in sizes]
    hidden = rewritten(program, {**changes, filler: padding[0]})
    return hidden + rewritten(shown, {filler: padding[1]})


def _directory_at(archive: bytes) -> int:
    return int.from_bytes(archive[-6:-2], "little")
