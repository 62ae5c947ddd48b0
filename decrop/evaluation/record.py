"""The record of a table of certificates: with which settings, and of what, they were computed."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field
from torch import nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.storage import AnyClassifier
from decrop.config import CertificationSettings, Count, Seed, Settings, TrialConfig, Word
from decrop.config.classifier_source import imports_code
from decrop.config.settings import BatchSize, Hashes, Sigma
from decrop.data.limited import LabelledImages
from decrop.denoisers.adapted import content_hash_of
from decrop.documents import validated
from decrop.errors import InputError
from decrop.files import (
    MOST_TEXT_BYTES,
    read_json,
    sha256_of_file,
    sha256_of_json,
    sha256_of_tensors,
    write_json,
)
from decrop.networks.denoised import DenoisedClassifier
from decrop.networks.identity import network_identity
from decrop.rejection.network import RejectingNetwork
from decrop.smoothing.execution import (
    Layout,
    resolve_certified_precision,
    resolve_device,
    resolve_layout,
)
from decrop.wording import counted

Split = Literal["held_out", "test"]

# The table that a record belongs to, by its content.
_TABLE = "certificates"
# For the samples and images that were really taken, `estimation_samples` and `images` stand.
_NOT_OF_THE_TABLE = {
    "estimation_samples",
    "max_samples",
    "held_out_samples",
    "pruning_samples",
    "test_images",
}
_OF_THE_GRID = {"radii", "radius_step"}
_CONTENTS = {
    "certified_images": "set of images",
    "classifier_code": "version of the classifier's code",
}


class CertificationRecord(Settings):
    """All that certificates depend on but noise, which the seed repeats."""

    sigma: Sigma = Field(description="Standard deviation of the noise, in [0,1] pixels.")
    certification: CertificationSettings = Field(
        description="Settings of the certificates; with sigmas they are an envelope over those."
    )
    estimation_samples: Count = Field(
        description="N of each image, or the most of them where images stop early."
    )
    split: Split = Field(description="Where the images are from.")
    images: Count = Field(description="Number of certified images.")
    seed: Seed = Field(description="Of the trial, from which that of the noise derives.")
    device: Word = Field(description="Kind of device.")
    precision: Word = Field(description="Of the certified function.")
    layout: Layout | None = Field(
        None,
        description="Of its images in memory; None in records of before it was recorded.",
        exclude_if=lambda layout: layout is None,
    )
    chunk_size: BatchSize = Field(description="Samples that share a random stream.")
    chunks_per_batch: BatchSize = Field(description="Chunks in one forward pass.")
    hashes: Hashes = Field(
        {}, description="Content of classifier, denoiser, rejector and certified_images."
    )

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        network: nn.Module,
        images: LabelledImages,
        *,
        split: Split,
        estimation_samples: int,
    ) -> Self:
        """Record a certification on this machine.

        Args:
            config: the trial's settings; chunks_per_batch is a number.
            estimation_samples: N, or the most of them where images stop early.
        """
        device = resolve_device(config.execution.device)
        return cls(
            sigma=config.sigma,
            certification=config.certification.at_one_sigma(),
            estimation_samples=estimation_samples,
            split=split,
            images=len(images),
            seed=config.seed,
            device=device.type,
            precision=resolve_certified_precision(config.execution.precision, device),
            layout=resolve_layout(config.execution.layout),
            chunk_size=config.execution.chunk_size,
            chunks_per_batch=int(config.execution.chunks_per_batch),
            hashes={**_hashes_of(network), "certified_images": images.content_hash()},
        )

    def differences(self, other: "CertificationRecord") -> list[str]:
        """Say in which settings certificates were computed otherwise than others, if in any."""
        told = _told(self._compared(other), other._compared(self))
        if self.images == other.images and not self.of_the_same_images(other):
            told.append("other images")
        return told

    def changes(self, other: "CertificationRecord") -> list[str]:
        """Say in what this certification is not another one, repeated; as `differences`, and more.

        That is, in what decides random bits and last digits, and in what was certified.
        """
        own = {"seed", "chunk_size", "chunks_per_batch"}
        if self.layout and other.layout:
            own.add("layout")
        ours, theirs = (
            {**one._compared(another), **one.model_dump(include=own)}
            for one, another in ((self, other), (other, self))
        )
        parts = sorted(self.hashes.keys() | other.hashes.keys())
        changed = [part for part in parts if self.hashes.get(part) != other.hashes.get(part)]
        return [*_told(ours, theirs), *(f"another {_CONTENTS.get(p, p)}" for p in changed)]

    def of_the_same_images(self, other: "CertificationRecord") -> bool:
        """Return whether both are of the same images, as far as both tell."""
        images = {record.hashes.get("certified_images") for record in (self, other)} - {None}
        return self.images == other.images and len(images) < 2

    def guarantee(self) -> str:
        """Say for what, and how surely, the certificates hold, in half a sentence."""
        settings = self.certification
        fixed = settings.procedure == "fixed"
        several = settings.sigmas
        sigma = (
            f"the best sigma of each among {', '.join(f'{one:g}' for one in several)}"
            if several
            else f"sigma {self.sigma:g}"
        )
        return (
            f"{counted(self.images, self.split.replace('_', '-') + ' image')}, {sigma}, failure "
            f"probability {settings.failure_probability:g} an image"
            f"{' for all sigmas together' if several else ''}, procedure "
            f"{settings.procedure}{f' ({settings.certificate})' if fixed else ''}, "
            f"noise {settings.noise}, {settings.selection_samples} + "
            f"{'' if fixed else 'at most '}{self.estimation_samples} samples an image"
        )

    def _samples_setting(self) -> tuple[str, int]:
        """Return the setting that `estimation_samples` came from."""
        settings = self.certification
        if self.split == "held_out":
            return "held_out_samples", self.estimation_samples
        if settings.procedure == "fixed":
            return "estimation_samples", self.estimation_samples
        return "max_samples", settings.selection_samples + self.estimation_samples

    def _compared(self, other: "CertificationRecord") -> dict[str, Any]:
        name, samples = self._samples_setting()
        if name != other._samples_setting()[0]:
            name, samples = "estimation_samples", self.estimation_samples
        left_out = _NOT_OF_THE_TABLE
        if self.certification.procedure != "adaptive":
            left_out = left_out | _OF_THE_GRID
        return {
            "sigma": self.sigma,
            **self.certification.model_dump(exclude=left_out),
            # Not dumped where there are none.
            "sigmas": self.certification.sigmas,
            name: samples,
            "split": self.split,
            "images": self.images,
            "device": self.device,
            "precision": self.precision,
        }


def record_path(table: Path) -> Path:
    """Return where the record of a table of certificates lies, beside it."""
    return table.with_name(f"{table.name}.json")


def write_record(record: CertificationRecord, table: Path) -> None:
    """Write the record of a table that is written already."""
    document = {_TABLE: sha256_of_file(table), **record.model_dump(mode="json")}
    write_json(record_path(table), document)


def read_record(table: Path) -> CertificationRecord | None:
    """Read the record beside a table, None if there is none."""
    path = record_path(table)
    if not path.is_file():
        return None
    document = read_json(path, most_bytes=MOST_TEXT_BYTES)
    found = document.pop(_TABLE, None) if isinstance(document, dict) else None
    if found != sha256_of_file(table):
        raise InputError(
            f"{path} does not belong to {table.name}, which has other content; delete it, or "
            "certify again."
        )
    return validated(CertificationRecord, document, source=str(path))


def _hashes_of(network: nn.Module) -> dict[str, str]:
    """Hash classifier, denoiser and rejector, as far as a network has them."""
    hashes = {}
    denoiser, classifier = None, network
    if isinstance(network, RejectingNetwork):
        denoiser, classifier = network.denoiser, network.classifier.classifier
        hashes["rejector"] = network.content_hash()
    elif isinstance(network, DenoisedClassifier):
        denoiser, classifier = network.denoiser, network.classifier
    if denoiser is not None and not isinstance(denoiser, nn.Identity):
        hashes["denoiser"] = content_hash_of(denoiser)
        if isinstance(network, DenoisedClassifier) and network.mirrored:
            hashes["denoiser"] = sha256_of_json([hashes["denoiser"], "mirrored"])
    if isinstance(classifier, AnyClassifier):
        hashes["classifier"] = classifier.content_hash()
        if isinstance(classifier, Classifier) and imports_code(classifier.architecture):
            hashes["classifier_code"] = network_identity(classifier.network)
    elif weights := classifier.state_dict():
        hashes["classifier"] = sha256_of_tensors(weights)
    return hashes


def _told(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {_shown(ours[name])}, not {_shown(theirs[name])}"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]" if value else "one alone"
    return str(value)
