"""Programs of torch.export (.pt2): read only what holds nothing but tensors and ATen operators.

`torch.export.load` unpickles without limits what the restricted unpickler refuses, evaluates
symbolic expressions, and imports modules that the file names. So a file is checked before PyTorch
sees it, and what could run code of its own is refused.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import torch
from torch.export import ExportedProgram

from decrop.errors import InputError

_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_PAYLOADS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|extra/.*|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+|"
    + "|".join(re.escape(name) for name in (_MODEL, _SAMPLES, *_PAYLOADS))
)
_OPERATOR = re.compile(r"(torch\.ops\.aten|_operator|math)\.\w+(\.\w+)?")
# What sizes are computed by: symbols, numbers and the functions of sympy that PyTorch writes.
_EXPRESSION = re.compile(
    # Possessive: what does not match is known at once.
    r"(?>Symbol\('[a-z]{1,4}\d+'(?:, [a-z]+=(?:True|False))*\)|(?:Integer|Add|Mul|Max|Min|Mod|"
    r"PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv|CeilToInt|FloorToInt|TruncToInt|"
    r"RoundToInt|ToFloat|PowByNatural|floor|ceiling)\(|\d{1,12}(?:\.\d{1,12})?|[su]\d+|[-+*/(),\s])*+"
)
_EXPORT_ANEW = (
    "export it anew with torch.export.save(torch.export.export(network.eval(), (images,), "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)), FILE)"
)


def read_program(program: bytes, blamed: str) -> ExportedProgram:
    """Load a program of torch.export from the bytes of its file.

    Args:
        program: the file's content.
        blamed: what an error begins with.

    Raises:
        InputError: it is no such file, is damaged, or holds what could run code.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            _check(archive, blamed)
    except InputError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{blamed} is not a program of torch.export ({_first_line(error)}); {_EXPORT_ANEW}."
        ) from None
    try:
        return torch.export.load(io.BytesIO(program))
    except Exception as error:  # a damaged file fails anywhere inside PyTorch
        raise InputError(
            f"{blamed} cannot be read by PyTorch {torch.__version__} ({_first_line(error)}); "
            f"{_EXPORT_ANEW}."
        ) from None


def _check(archive: zipfile.ZipFile, blamed: str) -> None:
    records: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        # PyTorch's reader takes names of either case, and another one of two equals than Python's.
        if name.lower() in map(str.lower, records) or len(roots) > 1:
            raise ValueError(f"{info.filename} is there twice")
        if not _RECORDS.fullmatch(name) or ".." in PurePosixPath(name).parts:
            raise InputError(
                f"{blamed} holds {name or root}, which is not of a program of tensors alone, could "
                f"run code and is not read; {_EXPORT_ANEW}."
            )
        records[name] = info
    for name in (*_PAYLOADS, _MODEL, _SAMPLES):
        if name not in records:
            raise ValueError(f"{name} is missing")
    for name in _PAYLOADS:
        for entry in json.loads(archive.read(records[name]))["config"].values():
            if entry["use_pickle"] is not False or not re.fullmatch(
                r"(weight|tensor)_\d+", entry["path_name"]
            ):
                raise _pickled(blamed, name)
    samples = archive.read(records[_SAMPLES])
    try:
        if samples:
            torch.load(io.BytesIO(samples), weights_only=True, map_location="cpu")
    except Exception:  # the restricted unpickler refuses in many ways
        raise _pickled(blamed, _SAMPLES) from None
    _check_graph(json.loads(archive.read(records[_MODEL])), blamed)


def _check_graph(model: Any, blamed: str) -> None:
    for key, value in _entries(model):
        if key == "target" and isinstance(value, str) and "." in value:
            if not _OPERATOR.fullmatch(value):
                raise InputError(
                    f"{blamed} calls {value}; only ATen operators are run. {_EXPORT_ANEW}, by a "
                    "network without operators of other libraries."
                )
        elif key == "expr_str" and not (
            isinstance(value, str) and "**" not in value and _EXPRESSION.fullmatch(value)
        ):
            raise InputError(
                f"{blamed} has the size {str(value)[:60]!r}, which is no plain expression and is "
                "not evaluated."
            )
        elif isinstance(value, str) and "default_factory_module" in value:
            raise InputError(f"{blamed} names a module to import, which is not done.")


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    pending = [(key, value)]
    while pending:
        name, found = pending.pop()
        if isinstance(found, dict):
            pending.extend(found.items())
        elif isinstance(found, list):
            pending.extend((name, item) for item in found)
        else:
            yield name, found


def _pickled(blamed: str, record: str) -> InputError:
    return InputError(
        f"{blamed} holds a pickle in {record}, which can run any code when it is read, so it is "
        f"not opened; {_EXPORT_ANEW}, by a network of plain tensors."
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
