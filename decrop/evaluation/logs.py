"""Per-image logs of published code, read by the names of their columns."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from decrop.errors import InputError
from decrop.evaluation.record import record_path
from decrop.evaluation.table import CertificateTable, read_texts
from decrop.smoothing.certificates import ABSTAIN

_NEEDED = ("idx", "label", "predict", "radius", "time")
# What tells which images are correct, each as 0 and 1, as False and True, or as their number so far
# (diffusion denoised smoothing and FT-CADIS).
_CORRECT = ("correct", "correct_num", "Sta_correct")
# Multi-scale denoised smoothing gives an image up that no scale is sure of.
_GIVEN_UP = "-2"
# Black-Box-Defense prints labels as they come out of a loader.
_TENSOR = r"^tensor\(\[?(-?\d+)\]?[^)]*\)$"


def read_log(path: Path) -> CertificateTable:
    """Read a log with columns idx, label, predict, radius and time, in any order, among others.

    Those of randomized smoothing, denoised smoothing, diffusion denoised smoothing, multi-scale
    denoised smoothing, FT-CADIS and Black-Box-Defense are such logs. What is correct follows from
    label and predict; a warning says where the log says otherwise. A table with a record of ours
    beside it must be as it was written.
    """
    if record_path(path).is_file():
        return CertificateTable.read_tsv(path)
    frame = read_texts(path)
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise InputError(
            f"{path}, line 1: a log of certificates has the columns {', '.join(_NEEDED)}, but "
            f"{', '.join(missing)} is missing among {', '.join(map(str, frame.columns))}."
        )
    for name in ("label", "predict"):
        frame[name] = frame[name].str.replace(_TENSOR, r"\1", regex=True)
    if "r_neg" in frame:
        frame["predict"] = frame["predict"].replace(_GIVEN_UP, str(ABSTAIN))
    correct = (frame["predict"] == frame["label"]).astype(np.int64)
    for name in _CORRECT:
        if name in frame:
            _compare(path, name, frame[name], correct)
    return CertificateTable.of_texts(path, frame.assign(correct=correct.astype(str)))


def _compare(path: Path, name: str, texts: "pd.Series[str]", correct: "pd.Series[int]") -> None:
    """Warn where a column does not say what is correct, in any of the ways it may."""
    told = texts.replace({"True": "1", "False": "0"})
    differing: list[NDArray[np.bool_]] = [
        (told != expected.astype(str)).to_numpy() for expected in (correct, correct.cumsum())
    ]
    fewest = min(differing, key=lambda wrong: int(wrong.sum()))
    if fewest.any():
        warnings.warn(
            f"{path}: its column {name} differs from what label and predict say in "
            f"{int(fewest.sum()):,} of {len(fewest):,} rows, first in line "
            f"{int(fewest.argmax()) + 2}; these two are taken.",
            stacklevel=3,
        )
