"""Protocols of endpoints: images as requests, and answers as class probabilities."""

import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from decrop.config.black_box import Answers, Pixels, Protocol, Scale
from decrop.wording import counted


def as_sent(images: Tensor, *, pixels: Pixels, scale: Scale) -> NDArray[Any]:
    """Return images as numbers of the range that the endpoint takes; part of what is certified.

    Args:
        images: float32 [B, C, H, W] in [0,1] pixels, plus noise.
        pixels: `float` leaves them; `clipped` clamps them to [0,1]; `uint8` rounds them to 8 bits
            too, halves to even.
        scale: that a white pixel is sent as.

    Returns:
        float32 [B, C, H, W], or uint8 where 8 bits are sent as 0 to 255.
    """
    found: NDArray[np.float32] = images.numpy()
    if pixels == "float":
        return found * np.float32(scale)
    clipped = found.clip(0, 1)
    if pixels == "clipped":
        return clipped * np.float32(scale)
    rounded = (clipped * np.float32(255)).round().astype(np.uint8)
    return rounded if scale == 255 else rounded / np.float32(255)


# Probabilities of servers that compute in 16 bits are off by as much.
_TOLERANCE = 1e-2
# Of the mappings that MLflow answers with, the most telling first.
_COLUMNS: dict[str, Answers] = {
    "probabilities": "probabilities",
    "class": "labels",
    "label": "labels",
}
_PLAIN: tuple[Answers, ...] = ("probabilities", "logits", "labels")
# Of an answer, for each image and each number; names of classes and blanks included.
_BYTES_BESIDE, _BYTES_OF_IMAGE, _BYTES_OF_NUMBER = 1 << 20, 1 << 10, 1 << 6
_MOST_BYTES = 1 << 28


def encode(protocol: Protocol, images: NDArray[Any]) -> bytes:
    """Return the body of a request for images [B, C, H, W]."""
    name = "inputs" if protocol == "mlflow" else "images"
    return json.dumps({name: images.tolist()}, separators=(",", ":"), allow_nan=False).encode()


def most_bytes(count: int, class_count: int) -> int:
    """Return how long an answer for `count` images can be that is worth reading."""
    found = _BYTES_BESIDE + count * (_BYTES_OF_IMAGE + class_count * _BYTES_OF_NUMBER)
    return min(found, _MOST_BYTES)


def decode(
    body: bytes,
    protocol: Protocol,
    answers: Literal["auto", Answers],
    *,
    count: int,
    class_count: int,
) -> tuple[NDArray[np.float32], Answers]:
    """Return what an answer says of each image, float32 [count, class_count], and how it does.

    Labels become one-hot rows, logits go through a softmax. With `auto` rows are probabilities
    where they are called so, or where each adds up to 1, else logits.

    Raises:
        ValueError: it is no such answer; the message goes on after the endpoint's name.
    """
    rows, named = _rows(body, protocol, answers)
    if len(rows) != count:
        raise ValueError(f"answers {counted(count, 'image')} with {counted(len(rows), 'row')}")
    if _are_labels(rows):
        if answers not in ("auto", "labels"):
            raise ValueError(
                f"answers with labels only, where classifier.endpoint.answers is {answers}"
            )
        return _one_hot(_labels(rows, class_count), class_count), "labels"
    numbers = _numbers(rows)
    if numbers.shape[1] != class_count:
        raise ValueError(
            f"answers with {counted(numbers.shape[1], 'number')} an image, but the data have "
            f"{class_count} classes"
        )
    if answers == "auto":
        answers = named or ("probabilities" if _add_up(numbers) else "logits")
    if answers == "labels":
        return _one_hot(numbers.argmax(axis=1), class_count), "labels"
    if answers == "logits":
        return softmax(numbers, axis=1).astype(np.float32), "logits"
    if not _add_up(numbers):
        raise ValueError(
            "answers with numbers that are no probabilities, as they do not add up to 1; if they "
            "are logits set classifier.endpoint.answers=logits"
        )
    return numbers.clip(0, 1).astype(np.float32), "probabilities"


def _rows(
    body: bytes, protocol: Protocol, answers: Literal["auto", Answers]
) -> tuple[list[Any], Answers | None]:
    """Return what there is for each image, and what it is called, if it has a name."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("does not answer with JSON") from None
    if protocol == "plain":
        names = [name for name in _PLAIN if isinstance(found, dict) and name in found]
        if not names:
            raise ValueError(
                "answers without labels, probabilities or logits (classifier.endpoint.protocol is "
                "plain)"
            )
        name = next((name for name in names if name == answers), names[0])
        return _listed(found[name], name), name
    if not isinstance(found, dict) or "predictions" not in found:
        raise ValueError("answers without predictions (classifier.endpoint.protocol is mlflow)")
    rows = _listed(found["predictions"], "predictions")
    if not any(isinstance(row, dict) for row in rows):
        return rows, None
    for column, meaning in _COLUMNS.items():
        if all(isinstance(row, dict) and column in row for row in rows):
            return [row[column] for row in rows], meaning
    raise ValueError(f"answers with predictions that have none of {', '.join(_COLUMNS)}")


def _listed(found: Any, name: str) -> list[Any]:
    if not isinstance(found, list) or not found:
        raise ValueError(f"answers with {name} that are no list of one row an image")
    return found


def _are_labels(rows: list[Any]) -> bool:
    """Tell labels, also each in a list of its own, from rows with a number for each class."""
    return not any(isinstance(row, list) and len(row) != 1 for row in rows)


def _labels(rows: list[Any], class_count: int) -> NDArray[np.int64]:
    labels = [row[0] if isinstance(row, list) else row for row in rows]
    for label in labels:
        # Floats too, as which numbers of classes come out of tables.
        whole = _is_number(label) and label == label // 1
        if not whole or not 0 <= label < class_count:
            raise ValueError(
                f"answers with {_shown(label)} as a label; labels must be the numbers of classes, "
                f"from 0 to {class_count - 1}"
            )
    return np.array(labels, dtype=np.int64)


def _numbers(rows: list[Any]) -> NDArray[np.float64]:
    """Return float64 [B, K], finite."""
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError("answers with rows of different lengths")
    for row in rows:
        for value in row:
            if not _is_number(value):
                raise ValueError(f"answers with {_shown(value)} where a number must be")
    try:
        numbers = np.array(rows, dtype=np.float64)
    except OverflowError:
        numbers = np.array([[np.inf]])
    if not np.isfinite(numbers).all():
        raise ValueError("answers with numbers that are NaN or infinite")
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_hot(labels: NDArray[np.int64], class_count: int) -> NDArray[np.float32]:
    return np.eye(class_count, dtype=np.float32)[labels]


def _add_up(numbers: NDArray[np.float64]) -> bool:
    with np.errstate(over="ignore"):
        sums = np.abs(numbers.sum(axis=1) - 1) <= _TOLERANCE
    return bool(sums.all() and (numbers >= -_TOLERANCE).all())


def _shown(value: Any) -> str:
    # Texts may be anything, and longer than a line.
    if isinstance(value, float) or (_is_number(value) and abs(value) < 1e100):
        return f"{value:.6g}"
    return type(value).__name__
