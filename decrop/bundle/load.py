"""A bundle read back, and refused where anything in it does not fit."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator
from torch import nn

from decrop.bundle.layout import (
    CERTIFICATES,
    CHECKSUMS,
    CLASSIFIER,
    CONFIG,
    DENOISER,
    FORMAT,
    HISTORY,
    OLDEST_FORMAT,
    RECORD,
    REJECTOR,
    WEIGHTS,
    checked_files,
)
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import StagedClassifier
from decrop.classifiers.storage import AnyClassifier, load_stored_classifier
from decrop.classifiers.weights import built_with_weights
from decrop.config import Count, DenoiserSettings, Settings, TrialConfig
from decrop.config.rejector import RejectorSettings
from decrop.denoisers.sources import LocatedDenoiser, stored_denoiser
from decrop.documents import show, validated
from decrop.errors import InputError
from decrop.evaluation.record import record_path
from decrop.evaluation.sigma_tables import SigmaTables, envelope_record, sigma_table_paths
from decrop.evaluation.table import CertificateTable
from decrop.files import MOST_TEXT_BYTES, read_json, read_rows
from decrop.networks.denoised import DenoisedClassifier
from decrop.rejection.network import RejectingNetwork, Rejector, check_certificate, check_one_image
from decrop.rejection.training import RejectionScores, build_rejector
from decrop.trial.result import Scores, TrialResult, nested_scores, radius_key
from decrop.wording import counted


@dataclass(frozen=True)
class BundledRejector:
    """A rejector behind a bundle's denoiser and classifier.

    Attributes:
        settings: with the names of the classifier's stages.
        network: in eval mode.
        held_out: what it does with the held-out part of the limited data.
    """

    settings: RejectorSettings
    network: Rejector
    held_out: RejectionScores

    def behind(self, denoiser: nn.Module, classifier: Classifier) -> RejectingNetwork:
        """Return denoiser, classifier and rejector in one."""
        return RejectingNetwork(
            denoiser,
            StagedClassifier(classifier, self.settings.stages or ()),
            self.network,
            threshold=self.settings.threshold,
        )


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        config: the settings of the trial, without the paths of the machine it ran on; device kind,
            precision and batch size are those the certificates were drawn with.
        denoiser: in eval mode; noisy images [B, C, H, W] to images of the same shape, which are the
            same images where the trial had none.
        classifier: the protected classifier, or the endpoint that it is behind.
        certificates: one row an image, with the record of how they were computed.
        estimation_samples: N of the certificates, or the most of them where images stop early.
        class_names: in the order of the logits.
        history: one record an epoch of the training; empty in bundles exported without it.
        sigma_tables: the certificates at several sigmas, those in `certificates` among them; None
            where they are of one alone.
    """

    config: TrialConfig
    denoiser: nn.Module
    classifier: AnyClassifier
    certificates: CertificateTable
    result: TrialResult
    estimation_samples: int
    class_names: tuple[str, ...]
    history: tuple[dict[str, Any], ...] = ()
    rejector: BundledRejector | None = None
    sigma_tables: SigmaTables | None = None

    @property
    def tables(self) -> dict[str, CertificateTable]:
        """All tables of certificates, by what figures call them."""
        if self.sigma_tables is None:
            return {f"this {self.config.trains}": self.certificates}
        return self.sigma_tables.named()

    @property
    def network(self) -> nn.Module:
        """Denoiser, classifier and any rejector in one, the function that was certified."""
        if self.rejector is not None:
            return self.rejector.behind(self.denoiser, self.white_box)
        mirrored = self.config.denoiser.mirrored
        return DenoisedClassifier(self.denoiser, self.classifier, mirrored=mirrored)

    @property
    def white_box(self) -> Classifier:
        """The classifier, where its gradients and features are needed."""
        return self.classifier.white_box()


# Of a trial's settings, those that decide which function was certified, on what, and how surely.
_STATED = (
    "seed",
    "sigma",
    "dataset.name",
    "limited.fraction",
    "limited.held_out_fraction",
    "limited.seed",
    "classifier.source",
    "denoiser.source",
    *(f"certification.{name}" for name in ("procedure", "certificate", "noise")),
    "certification.failure_probability",
    *(f"certification.{name}" for name in ("selection_samples", "radii", "radius_step")),
    *(f"execution.{name}" for name in ("device", "precision", "chunk_size", "chunks_per_batch")),
)


class RejectorRecord(Settings):
    """What config.json says of a rejector."""

    settings: RejectorSettings
    held_out: RejectionScores


class _Document(Settings):
    """config.json."""

    format: Count
    trial: TrialConfig
    estimation_samples: Count
    result: Annotated[
        TrialResult,
        BeforeValidator(lambda found: nested_scores(found) if isinstance(found, dict) else found),
    ]
    rejector: RejectorRecord | None = None


def load_bundle(
    path: Path, *, classifier: Path | str | nn.Module | None = None, trust_code: bool = False
) -> Bundle:
    """Read a bundle and check it against its checksums.

    Args:
        classifier: for a bundle exported without it: a safetensors or .pt2 file, a `Classifier`, or
            a network of its architecture. For one whose classifier is an endpoint: the URL that is
            asked, from then on, or an `EndpointClassifier`.
        trust_code: whether the function or model that built the classifier may be imported by the
            name in the bundle, or its endpoint be asked (see `load_stored_classifier`).
    """
    document, certificates, sigma_tables = _certified(path)
    config, result = document.trial, document.result
    protected, class_names = load_stored_classifier(
        path / CLASSIFIER, given=classifier, trust_code=trust_code
    )
    _check_record(document, protected, path / CONFIG)
    denoiser: nn.Module = nn.Identity()
    if DENOISER in WEIGHTS[config.trains]:
        denoiser = stored_denoiser(
            config.denoiser,
            path / DENOISER,
            image_channels=protected.channels,
            sigma=config.sigma,
            trust_code=trust_code,
        )
    return Bundle(
        config=config,
        denoiser=denoiser.eval(),
        classifier=protected,
        certificates=certificates,
        result=result,
        estimation_samples=document.estimation_samples,
        class_names=class_names,
        history=tuple(read_rows(path / HISTORY)),
        rejector=_load_rejector(document, protected, path),
        sigma_tables=sigma_tables,
    )


def located_in_bundle(settings: DenoiserSettings, folder: Path) -> LocatedDenoiser:
    """Find the denoiser of a bundle, for another training to start from."""
    found = _certified(folder)[0].trial.denoiser
    if found.source == "none":
        raise InputError(f"denoiser.source: {folder} is a bundle without a denoiser.")
    if found.form.imports_code:
        raise InputError(
            f"denoiser.source: the denoiser of {folder} is built by {found.source}; name that as "
            f"denoiser.source, with {DENOISER} of the bundle as denoiser.weights."
        )
    seen = settings.pretrained_on or f"the limited images of the bundle {folder.resolve().name}"
    if settings.pretrained_on is None and found.pretraining is not None:
        seen += f", after {found.pretraining}"
    own = {**found.model_dump(), "pretrained_on": seen, "weights": DENOISER}
    if found.form.name == "program":
        own["weights"] = None
    start = validated(DenoiserSettings, own, source=f"denoiser.source: {folder}")
    return LocatedDenoiser(start, folder / DENOISER, folder)


def read_certificates(path: Path) -> tuple[TrialConfig, TrialResult, CertificateTable]:
    """Read a bundle's settings, summary and certificates, checked as by `load_bundle`.

    It needs no weights of the classifier.
    """
    document, certificates, _ = _certified(path)
    return document.trial, document.result, certificates


def _certified(path: Path) -> tuple[_Document, CertificateTable, SigmaTables | None]:
    document = _read_document(path / CONFIG)
    files = checked_files(path)
    if document.rejector is not None and REJECTOR not in files:
        raise InputError(f"{path / CHECKSUMS} must list {REJECTOR}; train the rejector anew.")
    needed = list(WEIGHTS[document.trial.trains])
    if document.trial.denoiser.form.name == "program":
        needed.append(document.trial.denoiser.source)
    for name in needed:
        if name not in files:
            raise InputError(f"{path / CHECKSUMS} must list {name}; export it anew.")
    certificates = CertificateTable.read_tsv(path / CERTIFICATES)
    if not len(certificates.idx):
        raise InputError(f"{path / CERTIFICATES} holds no certificate.")
    if not document.result.scores.sums_up(certificates, document.trial.certification.radii):
        raise InputError(f"{path} was changed: its certificates do not add up to its summary.")
    _check_rows(document, certificates, path / CERTIFICATES)
    record = document.result.record(document.trial, document.estimation_samples)
    found = certificates.record or record
    # Of denoiser and rejector it alone has hashes; those of before have no layout.
    known = {"hashes": found.hashes | record.hashes, "layout": found.layout and record.layout}
    if found != record.model_copy(update=known):
        told = "; ".join(found.differences(record)) or "other hashes, seed or chunks"
        raise InputError(f"{path / RECORD} contradicts {CONFIG}: {told}.")
    certificates = replace(certificates, record=found)
    return document, certificates, _sigma_tables(document, certificates, path, files)


def _sigma_tables(
    document: _Document, certificates: CertificateTable, path: Path, files: list[str]
) -> SigmaTables | None:
    """Read the tables of several sigmas, where the summary has them, and compare them with it."""
    config, result = document.trial, document.result
    if result.by_sigma is None and result.envelope is None:
        return None
    sigmas, radii = config.certified_sigmas, config.certification.radii
    paths = sigma_table_paths(path / CERTIFICATES, config.sigma, sigmas)
    for file in paths.values():
        if file.name not in files:
            raise InputError(f"{path / CHECKSUMS} must list {file.name}; export it anew.")
    tables = SigmaTables.read(path / CERTIFICATES, config.sigma, sigmas)
    summed_up = [Scores.of(table, radii) for table in tables.named().values()]
    by_sigma = result.by_sigma or {}
    if [*map(radius_key, sigmas)] != [*by_sigma] or summed_up != [
        *by_sigma.values(),
        result.envelope,
    ]:
        raise InputError(
            f"{path} was changed: its certificates at several sigmas do not add up to its summary."
        )
    record = certificates.record
    assert record is not None  # `_certified` gives the table one
    records = [record.model_copy(update={"sigma": sigma}) for sigma in sigmas]
    records.append(envelope_record(record, sigmas))
    for table, expected, file in zip(tables.named().values(), records, paths.values(), strict=True):
        same_images = np.array_equal(table.idx, certificates.idx)
        if not same_images or not np.array_equal(table.label, certificates.label):
            raise InputError(f"{file} is of other images than {CERTIFICATES}.")
        if table.record != expected:
            raise InputError(f"{record_path(file)} is missing or contradicts {CONFIG}.")
    return tables


def _check_rows(document: _Document, certificates: CertificateTable, path: Path) -> None:
    """Raise InputError where images are missing, as far as the rows alone tell."""
    idx, asked = certificates.idx, document.trial.certification.test_images
    # A smaller split is certified whole.
    whole = np.array_equal(idx, np.arange(len(idx))) and len(idx) < asked
    if document.result.split == "test" and len(idx) != asked and not whole:
        raise InputError(
            f"{path} has {counted(len(idx), 'certificate')}, but certification.test_images is "
            f"{asked}: all images that the settings name must be there, and no others."
        )


def _read_document(path: Path) -> _Document:
    found = read_json(path, most_bytes=MOST_TEXT_BYTES)
    number = found.get("format") if isinstance(found, dict) else None
    if type(number) is not int:
        raise InputError(f"{path} is not that of a bundle: it states no format.")
    if number > FORMAT:
        raise InputError(
            f"{path} is of bundle format {show(number)}, written by a newer decrop; this one reads "
            f"up to {FORMAT}: upgrade decrop."
        )
    if number < OLDEST_FORMAT:
        raise InputError(
            f"{path} is of bundle format {number}, which is no longer read; export it anew."
        )
    document = validated(_Document, found, source=str(path))
    _check_stated(document, path)
    check_certificate(
        document.trial.certification.certificate, rejecting=document.rejector is not None
    )
    if document.rejector is not None:
        check_one_image(document.trial.denoiser)
    return document


def _check_stated(document: _Document, path: Path) -> None:
    """Raise InputError where a default would stand in for what the certificates depend on."""
    stated: list[tuple[str, BaseModel]] = [(name, document.trial) for name in _STATED]
    if document.rejector is not None:
        stated.append(("threshold", document.rejector.settings))
    for name, group in stated:
        *groups, last = name.split(".")
        for inner in groups:
            group = getattr(group, inner)
        if last not in group.model_fields_set:
            raise InputError(f"{path}: {name} is missing: a bundle states what was used.")


def _load_rejector(
    document: _Document, protected: AnyClassifier, path: Path
) -> BundledRejector | None:
    record, shape = document.rejector, document.result.image_shape
    if record is None:
        return None
    if record.settings.stages is None:
        raise InputError(f"{path / CONFIG}: rejector.settings.stages must be stated.")
    staged = StagedClassifier(protected.white_box(), record.settings.stages)
    network = built_with_weights(
        partial(build_rejector, record.settings, staged, shape),
        path / REJECTOR,
        architecture="the rejector",
        setting=None,
    )
    return BundledRejector(record.settings, network.eval(), record.held_out)


def _check_record(document: _Document, protected: AnyClassifier, path: Path) -> None:
    """Raise InputError unless what was recorded suffices to repeat the certificates."""
    for name in ("device", "precision", "chunks_per_batch"):
        if getattr(document.trial.execution, name) == "auto":
            raise InputError(f"{path}: trial.execution.{name} = 'auto': must be what was used.")
    shape, channels = document.result.image_shape, protected.channels
    if shape[0] != channels or min(shape) < 1:
        raise InputError(
            f"{path}: result.image_shape = {shape}: must be the {counted(channels, 'channel')} of "
            "the classifier, height and width."
        )
    hashes = document.result.hashes
    for name in ("classifier", "limited_data", "certified_images"):
        if name not in hashes:
            raise InputError(f"{path}: result.hashes.{name} is missing.")
    if protected.content_hash() != hashes["classifier"]:
        raise InputError(
            f"{path}: result.hashes.classifier = {hashes['classifier'][:12]}…: the classifier is "
            f"{protected.content_hash()[:12]}…."
        )
