"""An exported denoiser: a folder that carries what it takes to use and to check it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from decrop.certification import certificate_table, local_sampler, most_estimation_samples
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.stored import load_stored_classifier, store_classifier
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import LabelledImages, LimitedData, limited_data, take
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, sha256_of_file, write_json, write_text
from decrop.model_card import model_card
from decrop.networks.registry import build_denoiser
from decrop.result import Scores, TrialResult
from decrop.smoothing.collect import OnProgress
from decrop.trial_files import SAMPLES_FIGURE
from decrop.trial_folder import TrialFolder

FORMAT = 2
_CONFIG = "config.json"
_DENOISER = "denoiser.safetensors"
_CERTIFICATES = "certificates.tsv"
_HISTORY = "history.json"
_CLASSIFIER = "classifier"
_CHECKSUMS = "checksums.json"
# What use and verification read; other files are checked where they are listed.
_PROTECTED = {_CONFIG, _DENOISER, _CERTIFICATES, "classifier/classifier.json"}


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        config: the settings of the trial, without the paths of the machine it ran on; device kind,
            precision and batch size are those the certificates were drawn with.
        denoiser: in eval mode; noisy images [B, C, H, W] to images of the same shape.
        classifier: the protected classifier.
        certificates: one row an image.
        result: the summary of the certificates.
        estimation_samples: N of the certificates, or the most of them where images stop early.
        class_names: in the order of the logits.
        history: one record an epoch of the training; empty in bundles exported without it.
    """

    config: TrialConfig
    denoiser: nn.Module
    classifier: Classifier
    certificates: CertificateTable
    result: TrialResult
    estimation_samples: int
    class_names: tuple[str, ...]
    history: tuple[dict[str, Any], ...] = ()

    @property
    def network(self) -> nn.Module:
        """Denoiser and classifier in one, the function that was certified."""
        return nn.Sequential(self.denoiser, self.classifier)


def export_bundle(
    folder: TrialFolder,
    classifier: Classifier,
    class_names: tuple[str, ...],
    destination: Path,
    *,
    origin: str,
    with_classifier: bool = True,
) -> None:
    """Write a finished trial as a bundle.

    Args:
        folder: of the trial.
        classifier: that the trial protected.
        class_names: in the order of the logits.
        destination: a folder that does not exist yet.
        origin: a sentence for the model card that says how this denoiser was chosen.
        with_classifier: whether to include the classifier's weights.

    Raises:
        InputError: the trial has not finished or protected another classifier, or the destination
            exists.
    """
    if not folder.result_path.exists():
        raise InputError(f"{folder.path} holds no finished trial; there is no result.json.")
    if destination.exists():
        raise InputError(f"{destination} exists already; choose a folder that does not.")
    config = TrialConfig.model_validate(read_json(folder.config_path))
    result = TrialResult.from_json(read_json(folder.result_path))
    if classifier.content_hash() != result.hashes["classifier"]:
        raise InputError(
            f"{folder.path} protected another classifier than the one to export: its weights have "
            "changed since; train again in another folder."
        )
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(folder.denoiser_path, partial / _DENOISER)
    shutil.copyfile(folder.certificates_path, partial / _CERTIFICATES)
    shutil.copyfile(folder.history_path, partial / _HISTORY)
    # A bundle goes to others and holds none of the data.
    no_data = shutil.ignore_patterns(SAMPLES_FIGURE)
    shutil.copytree(folder.figures_path, partial / "figures", ignore=no_data)
    store_classifier(classifier, class_names, partial / _CLASSIFIER, with_weights=with_classifier)
    estimation_samples = (
        most_estimation_samples(config.certification)
        if result.split == "test"
        else config.certification.held_out_samples
    )
    portable = _portable(config, classifier, result)
    document = {
        "format": FORMAT,
        "trial": portable.model_dump(mode="json"),
        "estimation_samples": estimation_samples,
        "result": result.to_json(),
    }
    write_json(partial / _CONFIG, document)
    card = model_card(
        portable, result, estimation_samples, origin=origin, with_classifier=with_classifier
    )
    write_text(partial / "README.md", card)
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    write_json(
        partial / _CHECKSUMS,
        {path.relative_to(partial).as_posix(): sha256_of_file(path) for path in files},
    )
    partial.rename(destination)


def load_bundle(path: Path, *, classifier_weights: Path | None = None) -> Bundle:
    """Read a bundle and check it against its checksums.

    Args:
        path: the bundle's folder.
        classifier_weights: safetensors file, for a bundle exported without its classifier.

    Raises:
        InputError: files are missing or changed, or the classifier is not the protected one.
    """
    document = _checked_document(path)
    config, result, certificates = _certified(path, document)
    classifier, class_names = load_stored_classifier(path / _CLASSIFIER, weights=classifier_weights)
    denoiser = build_denoiser(config.denoiser, image_channels=len(classifier.mean))
    denoiser.load_state_dict(load_file(path / _DENOISER))
    history = path / _HISTORY
    return Bundle(
        config=config,
        denoiser=denoiser.eval(),
        classifier=classifier,
        certificates=certificates,
        result=result,
        estimation_samples=document["estimation_samples"],
        class_names=class_names,
        history=tuple(read_json(history)) if history.exists() else (),
    )


def read_certificates(path: Path) -> tuple[TrialConfig, TrialResult, CertificateTable]:
    """Read a bundle's settings, summary and certificates, checked as by `load_bundle`.

    It needs no weights of the classifier.

    Raises:
        InputError: files are missing or changed.
    """
    return _certified(path, _checked_document(path))


def limited_data_of(bundle: Bundle, *, dataset_path: str | None = None) -> LimitedData:
    """Draw the limited data of a bundle again.

    Args:
        bundle: whose settings say which they are.
        dataset_path: folder of the dataset, where it has one.

    Raises:
        InputError: the data are not those that the denoiser was trained on.
    """
    settings = bundle.config.dataset.model_copy(update={"path": dataset_path})
    limited = limited_data(load_dataset(settings), bundle.config.limited)
    if limited.all.content_hash() != bundle.result.hashes["limited_data"]:
        raise InputError(
            f"dataset.path: the images of {dataset_path or settings.name} are not those that the "
            "denoiser was trained on; give the dataset of the bundle with --dataset-path."
        )
    return limited


def verify_bundle(
    bundle: Bundle,
    *,
    dataset_path: str | None = None,
    on_certified: OnProgress | None = None,
) -> int:
    """Repeat the recorded certificates and return how many are identical, time aside.

    Args:
        bundle: to verify.
        dataset_path: folder of the dataset, where it has one.
        on_certified: called with the progress.

    Raises:
        InputError: the data are not those the certificates were computed on, or the recorded device
            is not here.
    """
    config = bundle.config.model_copy(
        update={"dataset": bundle.config.dataset.model_copy(update={"path": dataset_path})}
    )
    images = _certified_images(config, bundle)
    table = certificate_table(
        config,
        bundle.network,
        images,
        split=bundle.result.split,
        class_count=len(bundle.class_names),
        estimation_samples=bundle.estimation_samples,
        make_sampler=local_sampler(config),
        on_certified=on_certified,
    )
    recorded = bundle.certificates
    same = (table.predict == recorded.predict) & (table.radius == recorded.radius)
    return int(np.count_nonzero(same & (table.label == recorded.label)))


def _certified(
    path: Path, document: dict[str, Any]
) -> tuple[TrialConfig, TrialResult, CertificateTable]:
    config = TrialConfig.model_validate(document["trial"])
    certificates = CertificateTable.read_tsv(path / _CERTIFICATES)
    result = TrialResult.from_json(document["result"])
    if Scores.of(certificates, config.certification.radii) != result.scores:
        raise InputError(f"{path} was changed: its certificates do not add up to its summary.")
    return config, result, certificates


def _checked_document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(path / _CONFIG)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path / _CONFIG} is not of bundle format {FORMAT}.")
    checksums = read_json(path / _CHECKSUMS)
    if not isinstance(checksums, dict) or not checksums.keys() >= _PROTECTED:
        raise InputError(
            f"{path / _CHECKSUMS} must list {', '.join(sorted(_PROTECTED))}; export it anew."
        )
    for name, checksum in checksums.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{path} is incomplete: {name} is missing.")
        if sha256_of_file(file) != checksum:
            raise InputError(f"{path} was changed: {name} does not match its checksum.")
    return document


def _portable(config: TrialConfig, classifier: Classifier, result: TrialResult) -> TrialConfig:
    execution = {
        "device": result.device,
        "precision": result.precision,
        "chunks_per_batch": result.chunks_per_batch,
    }
    # `auto` found the architecture by weights that may lie elsewhere, or nowhere, from now on.
    found = {"weights": None, "architecture": classifier.architecture}
    return config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"path": None}),
            "classifier": config.classifier.model_copy(update=found),
            "execution": config.execution.model_copy(update=execution),
        }
    )


def _certified_images(config: TrialConfig, bundle: Bundle) -> LabelledImages:
    dataset = load_dataset(config.dataset)
    source = dataset.test if bundle.result.split == "test" else dataset.train
    indices = torch.from_numpy(bundle.certificates.idx.astype(np.int64))
    if int(indices.max()) >= len(source.labels):
        raise InputError(
            f"dataset.path: the data have {len(source.labels)} images, but image "
            f"{int(indices.max())} was certified; give the dataset of the certificates."
        )
    images = take(source, indices)
    if images.content_hash() != bundle.result.hashes["certified_images"]:
        raise InputError(
            f"dataset.path: the images of {config.dataset.path or config.dataset.name} are not "
            "those that were certified; give the dataset of the certificates with --dataset-path."
        )
    return images
