"""The result of a trial, as it is written to its folder."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from decrop.evaluation.accuracy import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
)
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.execution import Layout

Split = Literal["held_out", "test"]

# Of `TrialResult.seconds`: one image with noise through the certified function, in a batch.
NOISY_IMAGE = "noisy_image"


def radius_key(radius: float) -> str:
    """Name a radius in maps from radius to value: the shortest decimal, such as 0.0 or 0.25."""
    return repr(float(radius))


@dataclass(frozen=True)
class Scores:
    """Certified performance on one split.

    Attributes:
        images: number of certified images.
        average_certified_radius: mean over images of the radius where correct, else 0.
        certified_accuracy: share of all images that are correct with at least the radius.
        abstention_rate: share of images without a prediction.
    """

    images: int
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    abstention_rate: float

    @classmethod
    def of(cls, table: CertificateTable, radii: tuple[float, ...]) -> Self:
        """Summarise per-image certificates at `radii`."""
        accuracy: NDArray[np.float64] = certified_accuracy(
            table.predict, table.radius, table.label, np.asarray(radii)
        )
        return cls(
            images=len(table.idx),
            average_certified_radius=float(
                average_certified_radius(table.predict, table.radius, table.label)
            ),
            certified_accuracy={
                radius_key(r): float(a) for r, a in zip(radii, accuracy, strict=True)
            },
            abstention_rate=float(abstention_rate(table.predict)),
        )


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial found and what it was computed from.

    Attributes:
        split: where the certificates come from.
        scores: certified performance.
        clean_accuracy: accuracy of denoiser and classifier on images without noise.
        flip_rate: share of boundary samples that changed the prediction; None without a denoiser.
        precision: of the certified function.
        device: kind of device the certificates were drawn on.
        chunks_per_batch: chunks in one forward pass of the certified function.
        hashes: content of the classifier, the limited data and the certified images; of a black
            box also of its surrogate, which held-out certificates are of.
        seconds: duration of stage1, prior, training and certification; on the test split also of
            noisy_image (`decrop.certification.noisy_image_seconds`).
        image_shape: channels, height and width; None in results of before it was recorded.
        agreement: of a black box, share of held-out images on which its surrogate predicts as it.
        layout: of images in memory, when the certified function takes them.
    """

    split: Split
    scores: Scores
    clean_accuracy: float
    flip_rate: float | None
    precision: str
    device: str
    chunks_per_batch: int
    hashes: dict[str, str]
    seconds: dict[str, float]
    image_shape: tuple[int, int, int] | None = None
    agreement: float | None = None
    layout: Layout = "channels_last"

    def to_json(self) -> dict[str, Any]:
        """Return the flat mapping of `result.json`."""
        document = asdict(self)
        if self.agreement is None:
            del document["agreement"]
        return {"split": document.pop("split"), **document.pop("scores"), **document}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` returned."""
        shape = document.get("image_shape")
        nested = nested_scores(document) | {"image_shape": None if shape is None else tuple(shape)}
        return cls(**{**nested, "scores": Scores(**nested["scores"])})


def nested_scores(document: dict[str, Any]) -> dict[str, Any]:
    """Turn the flat mapping of `result.json` into that of the fields of `TrialResult`."""
    names = [field.name for field in fields(Scores)]
    rest = {name: value for name, value in document.items() if name not in names}
    return {**rest, "scores": {name: document[name] for name in names if name in document}}
