"""A finished trial as a bundle."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from decrop.bundle.layout import (
    CARD,
    CERTIFICATES,
    CLASSIFIER,
    CONFIG,
    DENOISER,
    FORMAT,
    HISTORY,
    ONNX,
    TORCH_EXPORT,
    WEIGHTS,
    files_of,
    write_checksums,
)
from decrop.bundle.model_card import Described, model_card
from decrop.bundle.programs import require_onnx, write_onnx, write_torch_export
from decrop.classifiers.storage import AnyClassifier, store_classifier
from decrop.config import TrialConfig
from decrop.denoisers.sources import PROGRAM, stored_denoiser
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import write_json, write_text
from decrop.trial.certify import last_estimation_samples
from decrop.trial.folder import SAMPLES_FIGURE, TrialFolder
from decrop.trial.result import TrialResult

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def export_bundle(
    folder: TrialFolder,
    classifier: AnyClassifier,
    class_names: tuple[str, ...],
    destination: Path,
    *,
    origin: str,
    with_classifier: bool = True,
    onnx: bool = False,
    torch_export: bool = False,
    license_id: str = "unknown",
    trust_code: bool = False,
) -> None:
    """Write a finished trial as a bundle.

    Args:
        classifier: that the trial protected, or trained; of an endpoint only the URL and how it is
            asked are written.
        class_names: in the order of the logits.
        destination: a folder that does not exist yet.
        origin: a sentence for the model card that says how this denoiser was chosen.
        license_id: of the weights, as model hubs name it.
        trust_code: whether code of other packages that built the denoiser may be imported, which a
            program of it takes.

    Raises:
        RunError: the exported program computes something else than the denoiser.
    """
    result = folder.result
    if result is None:
        raise InputError(f"{folder.path} holds no finished trial; there is no result.json.")
    if destination.exists():
        raise InputError(f"{destination} exists already; choose a folder that does not.")
    if not _LICENSE.fullmatch(license_id):
        raise InputError(
            f"--license {license_id!r}: give an identifier in lower case, such as apache-2.0, mit, "
            "cc-by-4.0, other or unknown."
        )
    if onnx:
        require_onnx()
    config = folder.read_config()
    config = config.model_copy(update={"denoiser": folder.denoiser_settings(config)})
    if classifier.content_hash() != result.hashes["classifier"]:
        raise InputError(
            f"{folder.path} protected another classifier than the one to export: its weights have "
            "changed since; train again in another folder."
        )
    weights = WEIGHTS[config.trains]
    if (onnx or torch_export) and DENOISER not in weights:
        raise InputError(
            "--onnx and --torch-export write the denoiser, and the trial has none; drop them."
        )
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in weights:
        shutil.copyfile(folder.path / name, partial / name)
    if config.denoiser.form.name == "program":
        shutil.copyfile(folder.path / PROGRAM, partial / PROGRAM)
    certificates = CertificateTable.read_tsv(folder.certificates_path)
    estimation_samples = last_estimation_samples(config.certification, result.split)
    if certificates.record is None:
        record = result.record(config, estimation_samples)
        certificates = replace(certificates, record=record)
    certificates.write(partial / CERTIFICATES)
    sigma_tables = folder.read_sigma_tables()
    if sigma_tables is not None:
        sigma_tables.write(partial / CERTIFICATES, config.sigma)
    shutil.copyfile(folder.history_path, partial / HISTORY)
    # A bundle goes to others and holds none of the data.
    no_data = shutil.ignore_patterns(SAMPLES_FIGURE)
    shutil.copytree(folder.figures_path, partial / "figures", ignore=no_data)
    store_classifier(classifier, class_names, partial / CLASSIFIER, with_weights=with_classifier)
    if onnx or torch_export:
        _write_programs(
            partial, config, result, onnx=onnx, torch_export=torch_export, trust_code=trust_code
        )
    described = Described(
        config=portable(config, classifier, result),
        result=result,
        estimation_samples=estimation_samples,
        shares=certificates.shares,
        origin=origin,
        license_id=license_id,
    )
    finish_bundle(partial, destination, described)


def finish_bundle(partial: Path, destination: Path, described: Described) -> None:
    """Write settings, model card and checksums beside all else, and give the bundle its name.

    Args:
        partial: the folder so far.
    """
    rejector = described.rejector
    document = {
        "format": FORMAT,
        "trial": recorded_settings(described.config),
        "estimation_samples": described.estimation_samples,
        "result": described.result.to_json(),
        **({} if rejector is None else {"rejector": rejector.model_dump(mode="json")}),
    }
    write_json(partial / CONFIG, document)
    write_text(partial / CARD, model_card(described, files_of(partial)))
    write_checksums(partial)
    partial.rename(destination)


def _write_programs(
    partial: Path,
    config: TrialConfig,
    result: TrialResult,
    *,
    onnx: bool,
    torch_export: bool,
    trust_code: bool,
) -> None:
    shape = result.image_shape
    denoiser = stored_denoiser(
        config.denoiser,
        partial / DENOISER,
        image_channels=shape[0],
        sigma=config.sigma,
        trust_code=trust_code,
    )
    if onnx:
        write_onnx(denoiser, shape, partial / ONNX)
    if torch_export:
        write_torch_export(denoiser, shape, partial / TORCH_EXPORT)


def portable(config: TrialConfig, classifier: AnyClassifier, result: TrialResult) -> TrialConfig:
    """Return settings without the paths of this machine, and with what `result` was drawn with."""
    execution = {
        "device": result.device,
        "precision": result.precision,
        "layout": result.layout,
        "chunks_per_batch": result.chunks_per_batch,
    }
    # Files may lie elsewhere, or nowhere, from now on; what they were is in classifier.json.
    training = config.classifier.training
    if training is not None:
        training = training.model_copy(update={"initial_weights": None})
    found: dict[str, Any] = {"weights": None, "source": classifier.architecture}
    found["training"] = training
    found["endpoint"] = classifier.recorded()
    if config.classifier.surrogate is not None:
        found["surrogate"] = config.classifier.surrogate.model_copy(update={"weights": None})
    return config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"path": None}),
            "classifier": config.classifier.model_copy(update=found),
            "execution": config.execution.model_copy(update=execution),
        }
    )


def recorded_settings(config: TrialConfig) -> dict[str, Any]:
    """Return settings for config.json, without those that formats before theirs do not know."""
    document = config.model_dump(mode="json")
    for name in ("endpoint", "surrogate"):
        if document["classifier"][name] is None:
            del document["classifier"][name]
    return document
