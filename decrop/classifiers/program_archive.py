"""Archives of torch.export (.pt2): the description of a program, and its tensors.

`torch.export.load` reads the zip file by a parser of its own, unpickles, evaluates expressions and
makes source code of names in the file. So nothing of a program goes through it: records are read
here, and what is no plain tensor is refused.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decrop.errors import InputError
from decrop.files import read_bytes

_MODEL = "models/model.json"
_WEIGHTS = "data/weights/", "model_weights_config.json"
_CONSTANTS = "data/constants/", "model_constants_config.json"
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|"
    r"models/model\.json|data/sample_inputs/model\.pt|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)"
)
# `extra/` holds notes of who exported it, which are not read.
_UNREAD = re.compile(r"extra/.*")
_MOST_FILE_BYTES = 4 << 30
_MOST_RECORDS = 20_000
# torchvision's largest have some 10 MiB.
_MOST_JSON_BYTES = 16 << 20
# Tied weights are one record under several names.
_MOST_BYTES_A_BYTE = 4
_SCHEMA = 8
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
EXPORT_ANEW = (
    "export it anew with torch.export.save(torch.export.export(network.eval(), (images,), "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)), FILE)"
)


@dataclass(frozen=True)
class ProgramRecords:
    """What an archive holds.

    Attributes:
        graph_module: the description of the graph and of its inputs and outputs.
        weights: by name; parameters and buffers that a state_dict has.
        constants: by name; other buffers and tensors.
    """

    graph_module: Any
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]


def program_bytes(path: Path, blamed: str) -> bytes:
    """Return the content of a .pt2 file."""
    return read_bytes(path, most_bytes=_MOST_FILE_BYTES, blamed=blamed)


def read_records(program: bytes, blamed: str) -> ProgramRecords:
    """Read the archive of a program; nothing in it is unpickled.

    Args:
        blamed: what an error begins with.

    Raises:
        ValueError, KeyError and other errors of malformed data: it is no such archive.
    """
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        records = _records(archive, blamed)
        model = _json(archive, records, _MODEL)
        if model["schema_version"]["major"] != _SCHEMA:
            raise InputError(
                f"{blamed} is of schema {model['schema_version']['major']} of torch.export, not "
                f"{_SCHEMA}; {EXPORT_ANEW}."
            )
        budget = _MOST_BYTES_A_BYTE * len(program)
        weights = _tensors(archive, records, *_WEIGHTS, budget, blamed)
        constants = _tensors(archive, records, *_CONSTANTS, budget, blamed)
    return ProgramRecords(model["graph_module"], weights, constants)


def _records(archive: zipfile.ZipFile, blamed: str) -> dict[str, zipfile.ZipInfo]:
    records: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MOST_RECORDS:
        raise InputError(f"{blamed} has {len(infos):,} records; {_MOST_RECORDS:,} are allowed.")
    for info in infos:
        root, _, name = info.filename.partition("/")
        if name in records:
            raise ValueError(f"{info.filename} is there twice")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename} is compressed")
        if _UNREAD.fullmatch(name):
            continue
        if not _RECORDS.fullmatch(name):
            raise InputError(
                f"{blamed} holds {(name or root)[:80]!r}, which is not of a program of tensors "
                f"alone, could run code and is not read; {EXPORT_ANEW}."
            )
        records[name] = info
    return records


def _json(archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], name: str) -> Any:
    if name not in records:
        raise ValueError(f"{name} is missing")
    if records[name].file_size > _MOST_JSON_BYTES:
        raise ValueError(f"{name} has more than {_MOST_JSON_BYTES:,} bytes")
    return json.loads(archive.read(records[name]))


def _tensors(
    archive: zipfile.ZipFile,
    records: dict[str, zipfile.ZipInfo],
    folder: str,
    config: str,
    budget: int,
    blamed: str,
) -> dict[str, Tensor]:
    stored: dict[str, bytearray] = {}
    tensors: dict[str, Tensor] = {}
    for name, entry in _json(archive, records, folder + config)["config"].items():
        if entry["use_pickle"] is not False:
            raise InputError(
                f"{blamed} holds a pickle in {folder + config}, which can run any code when it is "
                f"read, so it is not opened; {EXPORT_ANEW}, by a network of plain tensors."
            )
        record = folder + entry["path_name"]
        if record not in stored:
            # A copy, for tensors over bytes would be read-only.
            stored[record] = bytearray(archive.read(records[record]))
        tensors[name] = _tensor(stored[record], entry["tensor_meta"])
        budget -= tensors[name].nbytes
        if budget < 0:
            raise InputError(f"{blamed} describes more tensors than its bytes can hold.")
    return tensors


def _tensor(content: bytearray, meta: Any) -> Tensor:
    dtype = DTYPES[meta["dtype"]]
    sizes, strides = ([_size(value) for value in meta[key]] for key in ("sizes", "strides"))
    offset = _size(meta["storage_offset"])
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    # Expanded ones would be larger than they are here.
    if torch.Size(sizes).numel() > flat.numel():
        raise ValueError(f"a tensor {sizes} has {flat.numel()} values")
    return flat.as_strided(sizes, strides, offset)


def _size(value: Any) -> int:
    size = value["as_int"]
    if type(size) is not int or not 0 <= size < 2**62:
        raise ValueError(f"{str(size)[:40]} is no size")
    return size
