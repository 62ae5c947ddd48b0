"""Certificates of a set of images as the field's tab-separated table."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from decrop.documents import show
from decrop.errors import InputError
from decrop.evaluation.record import CertificationRecord, read_record, record_path, write_record
from decrop.files import MOST_TABLE_BYTES, open_regular, write_text
from decrop.smoothing.certificates import ABSTAIN

_COLUMNS = ["idx", "label", "predict", "radius", "correct", "time"]
_HEADER_LINES = 1
# All whole numbers up to here are exact, and none of images, classes or samples is larger.
_LARGEST = 1e15
_LONGEST_ENDING = 100


@dataclass(frozen=True)
class Shares:
    """What images come to, as shares of all of them that add up to 1.

    Attributes:
        correct: certified for their true class, at whatever radius.
        misclassified: a wrong class was certified, or selected and not certified.
        abstained: neither; nothing is certified.
    """

    correct: float
    misclassified: float
    abstained: float


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
        ending: [B], why no more was drawn (`decrop.smoothing.procedures.Ending`); None if unknown.
        selected: int64 [B], class that the selection samples chose; None if unknown.
        sigma: float64 [B], of an envelope (`decrop.evaluation.sigma_tables`), the standard
            deviation of the noise that each certificate is of, 0 where it abstains; else None.
        record: with which settings, and of what, they were computed; None if unknown.
    """

    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    seconds: NDArray[np.float64]
    samples: NDArray[np.int64] | None = None
    ending: NDArray[np.str_] | None = None
    selected: NDArray[np.int64] | None = None
    sigma: NDArray[np.float64] | None = None
    record: CertificationRecord | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the certified class is the true one, bool [B]."""
        correct: NDArray[np.bool_] = self.predict == self.label
        return correct

    @property
    def misclassified(self) -> NDArray[np.bool_]:
        """Whether the class is wrong that was certified, or selected and not certified, bool [B].

        Of tables that do not tell the selected class, only those that were certified, or that say
        so as their ending.
        """
        wrong: NDArray[np.bool_] = (self.predict != ABSTAIN) & ~self.correct
        if self.selected is not None:
            # Logits that are not finite select nothing.
            finite = True if self.ending is None else self.ending != "not_finite"
            wrong = wrong | ((self.selected != self.label) & finite)
        elif self.ending is not None:
            wrong = wrong | (self.ending == "misclassified")
        return wrong

    @property
    def shares(self) -> Shares:
        """How many images are certified correct, misclassified, and neither."""
        correct, misclassified = float(self.correct.mean()), float(self.misclassified.mean())
        abstained = float((~self.correct & ~self.misclassified).mean())
        return Shares(correct, misclassified, abstained)

    @property
    def probability(self) -> NDArray[np.float64] | None:
        """Lower bounds of p_A, float64 [B]: Phi(radius / sigma), 0 where it abstains.

        p_A is the probability of the certified class under noise (Cohen, Rosenfeld and Kolter 2019,
        theorem 1). Of certificates that bound other probabilities too, the p_A that alone would
        have that radius. None where they are not known to be of one sigma.
        """
        if self.record is None or self.sigma is not None:
            return None
        bound: NDArray[np.float64] = np.where(
            self.predict == ABSTAIN, 0.0, ndtr(self.radius / self.record.sigma)
        )
        return bound

    def write(self, path: Path) -> None:
        """Write the table and, where it is known, its record beside it (`record_path`)."""
        # Never the record of an earlier table beside this one.
        record_path(path).unlink(missing_ok=True)
        self.write_tsv(path)
        if self.record is not None:
            write_record(self.record, path)

    @property
    def frame(self) -> pd.DataFrame:
        """Columns idx, label, predict, radius, correct (0 or 1) and time (seconds).

        Columns samples, ending, selected and sigma follow where they are known.
        """
        columns: dict[str, NDArray[Any] | None] = {
            "idx": self.idx,
            "label": self.label,
            "predict": self.predict,
            "radius": self.radius,
            "correct": self.correct.astype(np.int64),
            "time": self.seconds,
            "samples": self.samples,
            "ending": self.ending,
            "selected": self.selected,
            "sigma": self.sigma,
        }
        return pd.DataFrame({k: column for k, column in columns.items() if column is not None})

    def write_tsv(self, path: Path) -> None:
        """Write `frame`, exactly."""
        write_text(path, self.frame.to_csv(sep="\t", index=False, lineterminator="\n"))

    @classmethod
    def read_tsv(cls, path: Path) -> Self:
        """Read a table with those six columns first; `time` is seconds or H:MM:SS[.ffffff].

        Further columns other than samples, ending, selected and sigma are passed over. The record
        beside it is read where there is one.
        """
        frame = read_texts(path)
        if list(frame.columns[: len(_COLUMNS)]) != _COLUMNS:
            raise InputError(
                f"{path}, line 1: the first columns must be {' '.join(_COLUMNS)}, but are "
                f"{' '.join(frame.columns[: len(_COLUMNS)])}."
            )
        return cls.of_texts(path, frame)

    @classmethod
    def of_texts(cls, path: Path, frame: pd.DataFrame) -> Self:
        """Read the texts of a table, whatever the order of its columns (see `read_tsv`)."""
        values = {name: _numbers(path, frame, name) for name in _COLUMNS}
        for name in ("idx", "label", "predict", "correct"):
            _require(path, values[name] % 1 == 0, name, frame[name], "an integer")
        for name in ("idx", "label", "radius", "time"):
            _require(path, values[name] >= 0, name, frame[name], "at least 0")
        for name in _COLUMNS:
            _require(path, values[name] <= _LARGEST, name, frame[name], f"at most {_LARGEST:g}")
        first = ~pd.Series(values["idx"]).duplicated().to_numpy()
        _require(path, first, "idx", frame["idx"], "of one row alone: an image counts once")
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
        if "ending" in frame:
            short = (frame["ending"].str.len() <= _LONGEST_ENDING).to_numpy()
            _require(path, short, "ending", frame["ending"], f"at most {_LONGEST_ENDING} long")
        return cls(
            idx=values["idx"].astype(np.int64),
            label=values["label"].astype(np.int64),
            predict=values["predict"].astype(np.int64),
            radius=values["radius"],
            seconds=values["time"],
            samples=_counts(path, frame, "samples"),
            ending=frame["ending"].to_numpy(dtype=np.str_) if "ending" in frame else None,
            selected=_counts(path, frame, "selected"),
            sigma=_sigmas(path, frame),
            record=read_record(path),
        )


def read_texts(path: Path) -> pd.DataFrame:
    """Read a tab-separated file with a header, each field as text."""
    with open_regular(path, most_bytes=MOST_TABLE_BYTES) as file:
        try:
            frame = pd.read_csv(
                file,
                sep="\t",
                # As a row, for pandas would give the second of two equal names another one.
                header=None,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                quoting=csv.QUOTE_NONE,
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path} is not a tab-separated table: {reason}") from None
    names = frame.iloc[0]
    if names.duplicated().any():
        raise InputError(
            f"{path}, line 1: has two columns {names[names.duplicated()].iloc[0]}; keep one."
        )
    return frame[1:].set_axis(names.tolist(), axis=1).reset_index(drop=True)


def _numbers(path: Path, frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    texts = frame[name]
    numbers = pd.to_numeric(texts, errors="coerce")
    if name == "time":
        # As Python writes them: 1 day, 2:03:04.500000
        durations = texts[texts.str.contains(":", regex=False, na=False)].str.replace(",", "")
        numbers.update(pd.to_timedelta(durations, errors="coerce").dt.total_seconds())
    values = numbers.to_numpy(dtype=np.float64)
    _require(path, np.isfinite(values), name, texts, "a finite number")
    return values


def _counts(path: Path, frame: pd.DataFrame, name: str) -> NDArray[np.int64] | None:
    """Return a column of integers of at least 0, None if there is none."""
    if name not in frame:
        return None
    numbers = _numbers(path, frame, name)
    valid = (numbers >= 0) & (numbers % 1 == 0) & (numbers <= _LARGEST)
    _require(path, valid, name, frame[name], "an integer of at least 0")
    return numbers.astype(np.int64)


def _sigmas(path: Path, frame: pd.DataFrame) -> NDArray[np.float64] | None:
    if "sigma" not in frame:
        return None
    numbers = _numbers(path, frame, "sigma")
    _require(path, (numbers >= 0) & (numbers <= _LARGEST), "sigma", frame["sigma"], "at least 0")
    return numbers


def _require(
    path: Path, valid: NDArray[np.bool_], name: str, texts: "pd.Series[str]", expected: str
) -> None:
    if not valid.all():
        row = int(np.argmin(valid))
        raise InputError(
            f"{path}, line {row + 1 + _HEADER_LINES}, column {name}: {show(texts.iloc[row])} must "
            f"be {expected}."
        )
