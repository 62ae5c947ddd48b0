"""The result of a trial, as it is written to its folder."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from decrop.config import TrialConfig
from decrop.config.settings import (
    MOST_RADII,
    MOST_SIGMAS,
    BatchSize,
    CountOrZero,
    Hashes,
    NonNegative,
    Seconds,
    Share,
    Side,
    Word,
)
from decrop.evaluation.accuracy import (
    abstention_rate,
    area_under_curve,
    average_certified_radius,
    certified_accuracy,
    radius_error,
)
from decrop.evaluation.record import CertificationRecord
from decrop.evaluation.record import Split as Split
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.execution import Layout

# Of `TrialResult.seconds`: one image with noise through the certified function, in a batch.
NOISY_IMAGE = "noisy_image"


_NORMAL_95 = 1.96


def radius_key(radius: float) -> str:
    """Name a radius in maps from radius to value: the shortest decimal, such as 0.0 or 0.25."""
    return repr(float(radius))


@dataclass(frozen=True)
class Scores:
    """Certified performance on one split.

    Attributes:
        average_certified_radius: mean over images of the radius where correct, else 0.
        certified_accuracy: share of all images that are correct with at least the radius.
        abstention_rate: share of images without a certified class, those among them whose selected
            class is wrong included (`CertificateTable.shares` tells both apart).
        area_under_curve: of certified accuracy up to the largest of its radii, in [0,1] pixels.
        radius_error: standard error of the average certified radius.
    """

    images: CountOrZero
    average_certified_radius: NonNegative
    certified_accuracy: Annotated[dict[Word, Share], Field(max_length=MOST_RADII)]
    abstention_rate: Share
    area_under_curve: NonNegative
    radius_error: NonNegative

    @property
    def average_radius_interval(self) -> tuple[float, float]:
        """A 95 % interval of the average certified radius over images, by the normal law."""
        reach, average = _NORMAL_95 * self.radius_error, self.average_certified_radius
        return max(0.0, average - reach), average + reach

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
            area_under_curve=area_under_curve(table.predict, table.radius, table.label, max(radii)),
            radius_error=radius_error(table.predict, table.radius, table.label),
        )

    def sums_up(self, table: CertificateTable, radii: tuple[float, ...]) -> bool:
        """Return whether these are the scores of a table."""
        return self == Scores.of(table, radii)


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial found and what it was computed from.

    Attributes:
        split: where the certificates come from.
        clean_accuracy: accuracy of denoiser and classifier on images without noise.
        flip_rate: share of boundary samples that changed the prediction; None without a denoiser.
        precision: of the certified function.
        device: kind of device that the certificates were sampled on.
        chunks_per_batch: chunks in one forward pass of the certified function.
        hashes: content of the classifier, the limited data and the certified images; of a black
            box also of its surrogate, which held-out certificates are of.
        seconds: duration of stage1, prior, training and certification; on the test split also of
            noisy_image (`decrop.trial.certify.noisy_image_seconds`).
        image_shape: channels, height and width.
        agreement: of a black box, share of held-out images on which its surrogate predicts as it.
        layout: of images in memory, when the certified function takes them.
        by_sigma: certified performance at each of several standard deviations of the noise, the
            trial's own among them; None where there is that alone.
        envelope: that of their envelope (`decrop.evaluation.sigma_tables`).
    """

    split: Split
    scores: Scores
    clean_accuracy: Share
    flip_rate: Share | None
    precision: Word
    device: Word
    chunks_per_batch: BatchSize
    hashes: Hashes
    seconds: Annotated[dict[Word, Seconds], Field(max_length=100)]
    image_shape: tuple[Side, Side, Side]
    agreement: Share | None = None
    layout: Layout = "channels_last"
    by_sigma: Annotated[dict[Word, Scores], Field(max_length=MOST_SIGMAS + 1)] | None = None
    envelope: Scores | None = None

    def record(self, config: TrialConfig, estimation_samples: int) -> CertificationRecord:
        """Return the record of the certificates that it sums up.

        Args:
            estimation_samples: N, or the most of them where images stop early.
        """
        return CertificationRecord(
            sigma=config.sigma,
            certification=config.certification.at_one_sigma(),
            estimation_samples=estimation_samples,
            split=self.split,
            images=self.scores.images,
            seed=config.seed,
            device=self.device,
            precision=self.precision,
            layout=self.layout,
            chunk_size=config.execution.chunk_size,
            chunks_per_batch=self.chunks_per_batch,
            hashes={
                name: self.hashes[name]
                for name in ("classifier", "certified_images")
                if name in self.hashes
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return the flat mapping of `result.json`."""
        document = asdict(self)
        for name in ("agreement", "by_sigma", "envelope"):
            if document[name] is None:
                del document[name]
        return {"split": document.pop("split"), **document.pop("scores"), **document}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` returned."""
        nested = nested_scores(document) | {"image_shape": tuple(document["image_shape"])}
        nested["scores"] = Scores(**nested["scores"])
        if (by_sigma := document.get("by_sigma")) is not None:
            nested["by_sigma"] = {sigma: Scores(**scores) for sigma, scores in by_sigma.items()}
        if (envelope := document.get("envelope")) is not None:
            nested["envelope"] = Scores(**envelope)
        return cls(**nested)


def nested_scores(document: dict[str, Any]) -> dict[str, Any]:
    """Turn the flat mapping of `result.json` into that of the fields of `TrialResult`."""
    names = [field.name for field in fields(Scores)]
    rest = {name: value for name, value in document.items() if name not in names}
    return {**rest, "scores": {name: document[name] for name in names if name in document}}
