"""Certificates of a set of images as the field's tab-separated table."""

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from decrop.documents import show
from decrop.errors import InputError
from decrop.files import MOST_TABLE_BYTES, require_regular, write_text
from decrop.smoothing.certificates import ABSTAIN

_COLUMNS = ["idx", "label", "predict", "radius", "correct", "time"]
_HEADER_LINES = 1
# All whole numbers up to here are exact, and none of images, classes or samples is larger.
_LARGEST = 1e15
_LONGEST_ENDING = 100


@dataclass(frozen=True, eq=False)
class CertificateTable:
    """One row an image.

    Attributes:
        idx: int64 [B], number of the image in its split.
        label: int64 [B], true class.
        predict: int64 [B], certified class, or -1 for abstention.
        radius: float64 [B], certified L2 radius in [0,1] pixels; 0 where it abstains.
        seconds: float64 [B], time the image took.
        samples: int64 [B], noise draws, those that chose the class included; None if unknown.
        ending: [B], why no more was drawn (`decrop.smoothing.certify.Ending`); None if unknown.
    """

    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    seconds: NDArray[np.float64]
    samples: NDArray[np.int64] | None = None
    ending: NDArray[np.str_] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the certified class is the true one, bool [B]."""
        correct: NDArray[np.bool_] = self.predict == self.label
        return correct

    def write_tsv(self, path: Path) -> None:
        """Write idx, label, predict, radius, correct (0 or 1) and time (seconds), exactly.

        Columns samples and ending follow where they are known.
        """
        columns: dict[str, NDArray[Any]] = {
            "idx": self.idx,
            "label": self.label,
            "predict": self.predict,
            "radius": self.radius,
            "correct": self.correct.astype(np.int64),
            "time": self.seconds,
        }
        if self.samples is not None:
            columns["samples"] = self.samples
        if self.ending is not None:
            columns["ending"] = self.ending
        frame = pd.DataFrame(columns)
        write_text(path, frame.to_csv(sep="\t", index=False, lineterminator="\n"))

    @classmethod
    def read_tsv(cls, path: Path) -> Self:
        """Read a table with those six columns first; `time` is seconds or H:MM:SS[.ffffff].

        Further columns other than samples and ending are passed over.

        Raises:
            InputError: the file is missing or malformed; the message names line and column.
        """
        frame = _read_text_frame(path)
        values = {name: _numbers(path, frame, name) for name in _COLUMNS}
        for name in ("idx", "label", "predict", "correct"):
            _require(path, values[name] % 1 == 0, name, frame[name], "an integer")
        for name in ("idx", "label", "radius", "time"):
            _require(path, values[name] >= 0, name, frame[name], "at least 0")
        for name in _COLUMNS:
            _require(path, values[name] <= _LARGEST, name, frame[name], f"at most {_LARGEST:g}")
        abstains = values["predict"] == ABSTAIN
        _require(
            path, abstains | (values["predict"] >= 0), "predict", frame["predict"], "-1 or a class"
        )
        _require(
            path, ~abstains | (values["radius"] == 0), "radius", frame["radius"], "0 on abstention"
        )
        correct = (values["predict"] == values["label"]).astype(np.float64)
        _require(
            path,
            values["correct"] == correct,
            "correct",
            frame["correct"],
            "1 where predict is label, else 0",
        )
        samples = None
        if "samples" in frame:
            numbers = _numbers(path, frame, "samples")
            valid = (numbers >= 0) & (numbers % 1 == 0) & (numbers <= _LARGEST)
            _require(path, valid, "samples", frame["samples"], "an integer of at least 0")
            samples = numbers.astype(np.int64)
        if "ending" in frame:
            short = (frame["ending"].str.len() <= _LONGEST_ENDING).to_numpy()
            _require(path, short, "ending", frame["ending"], f"at most {_LONGEST_ENDING} long")
        return cls(
            idx=values["idx"].astype(np.int64),
            label=values["label"].astype(np.int64),
            predict=values["predict"].astype(np.int64),
            radius=values["radius"],
            seconds=values["time"],
            samples=samples,
            ending=frame["ending"].to_numpy(dtype=np.str_) if "ending" in frame else None,
        )


def _read_text_frame(path: Path) -> pd.DataFrame:
    require_regular(path, most_bytes=MOST_TABLE_BYTES)
    try:
        with warnings.catch_warnings():
            # pandas only warns where a row has one field more than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep="\t",
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                quoting=csv.QUOTE_NONE,
                index_col=False,
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a tab-separated table: {reason}") from None
    if list(frame.columns[: len(_COLUMNS)]) != _COLUMNS:
        raise InputError(
            f"{path}, line 1: the first columns must be {' '.join(_COLUMNS)}, but are "
            f"{' '.join(frame.columns[: len(_COLUMNS)])}."
        )
    return frame


def _numbers(path: Path, frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    texts = frame[name]
    numbers = pd.to_numeric(texts, errors="coerce")
    if name == "time":
        durations = texts[texts.str.contains(":", regex=False, na=False)]
        numbers.update(pd.to_timedelta(durations, errors="coerce").dt.total_seconds())
    values = numbers.to_numpy(dtype=np.float64)
    _require(path, np.isfinite(values), name, texts, "a finite number")
    return values


def _require(
    path: Path, valid: NDArray[np.bool_], name: str, texts: "pd.Series[str]", expected: str
) -> None:
    if not valid.all():
        row = int(np.argmin(valid))
        raise InputError(
            f"{path}, line {row + 1 + _HEADER_LINES}, column {name}: {show(texts.iloc[row])} must "
            f"be {expected}."
        )
