"""A bundle with a rejector, made from one without."""

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from decrop.bundle.export import finish_bundle, portable
from decrop.bundle.layout import (
    CARD,
    CERTIFICATES,
    CHECKSUMS,
    CONFIG,
    RECORD,
    REJECTOR,
    REJECTOR_HISTORY,
    checked_files,
)
from decrop.bundle.load import Bundle, BundledRejector, RejectorRecord
from decrop.bundle.model_card import Described, license_and_origin
from decrop.bundle.verify import limited_data_of
from decrop.config import TrialConfig
from decrop.config.rejector import RejectorSettings
from decrop.data.datasets import load_dataset
from decrop.data.limited import images_to_certify
from decrop.denoisers.adapted import content_hash_of
from decrop.errors import InputError
from decrop.evaluation.record import record_path
from decrop.files import (
    read_json,
    read_text,
    sha256_of_json,
    write_json,
    write_tensors,
)
from decrop.networks.denoised import DenoisedClassifier
from decrop.rejection.network import check_certificate, check_one_image
from decrop.rejection.training import RejectorTrainer, with_stages
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.training.loop import train
from decrop.trial.certify import (
    CertificationTask,
    trial_result,
    with_fitting_execution,
    with_recorded_batch_size,
)
from decrop.trial.folder import (
    ACCURACY_FIGURE,
    PROBABILITIES_FIGURE,
    TrialFolder,
    save_certificate_figures,
)
from decrop.trial.result import TrialResult
from decrop.trial.several_sigmas import SigmaCertifications, certify_at_sigmas


@dataclass(frozen=True)
class AddedRejector:
    """What `add_rejector` wrote."""

    rejector: BundledRejector
    result: TrialResult


def add_rejector(
    source: Path,
    bundle: Bundle,
    config: TrialConfig,
    settings: RejectorSettings,
    destination: Path,
    folder: TrialFolder,
    *,
    hooks: Hooks = NO_HOOKS,
) -> AddedRejector:
    """Train a rejector behind a bundle's denoiser, certify with it, and write a bundle of all.

    Trains on the limited data without its held-out part, scores on that, and certifies test images
    as `config` says. Work already in `folder` goes on; it is removed once the bundle is written.

    Args:
        config: the bundle's settings, with the certification and execution that are wished for.
        destination: a folder that does not exist yet.
        folder: for checkpoint and counts.

    Raises:
        RunError: the loss is no longer a finite number.
    """
    check_certificate(config.certification.certificate, rejecting=True)
    check_one_image(bundle.config.denoiser)
    if bundle.rejector is not None:
        raise InputError(f"{source} has a rejector already; give the bundle that it was added to.")
    limited = limited_data_of(bundle, dataset_path=config.dataset.path)
    channels, height, width = limited.all.images.shape[1:]
    settings = with_stages(settings, bundle.white_box, (channels, height, width))
    device = resolve_device(config.execution.device)
    config = with_fitting_execution(
        config,
        DenoisedClassifier(bundle.denoiser, bundle.white_box, mirrored=False),
        (channels, height, width),
    )
    trainer = RejectorTrainer(
        settings,
        denoiser=bundle.denoiser,
        classifier=bundle.white_box,
        images=limited.without_held_out.images,
        sigma=config.sigma,
        precision=resolve_precision(config.execution.training_precision, device),
        device=device,
    )
    images = images_to_certify(load_dataset(config.dataset), config.certification.test_images)
    folder.keep_inputs(
        {
            "denoiser": content_hash_of(bundle.denoiser),
            "classifier": bundle.classifier.content_hash(),
            "limited_data": limited.all.content_hash(),
            "test_images": images.content_hash(),
        },
    )
    _begin(folder, config, settings)
    _train(trainer, settings, folder, hooks)
    rejector = BundledRejector(
        settings=settings,
        network=trainer.rejector.cpu().eval(),
        held_out=trainer.score(limited.held_out.images),
    )
    network = rejector.behind(bundle.denoiser.cpu(), bundle.white_box.cpu())
    task = CertificationTask(network, images, "test", len(bundle.class_names))
    found = certify_at_sigmas(
        with_recorded_batch_size(config, task, folder.execution_path),
        task,
        estimation_samples=config.certification.estimation_samples,
        journal=folder.counts_path,
        hooks=hooks,
    )
    # Without the rejector: it turns nothing away where there is no noise.
    classified = bundle.network
    result = trial_result(
        found.own,
        hashes=bundle.result.hashes,
        seconds={
            **bundle.result.seconds,
            "rejector": sum(record.seconds for record in trainer.history),
        },
        flip_rate=bundle.result.flip_rate,
        agreement=bundle.result.agreement,
        classified=classified,
    )
    result = found.added_to(result)
    history = [asdict(record) for record in trainer.history]
    _write(source, bundle, found, rejector, history, result, destination)
    shutil.rmtree(folder.path)
    return AddedRejector(rejector, result)


def _begin(folder: TrialFolder, config: TrialConfig, settings: RejectorSettings) -> None:
    """Record the settings, or refuse a folder of others."""
    begun = {
        "trial": config.model_dump(mode="json"),
        "rejector": settings.model_dump(mode="json"),
    }
    if folder.config_path.exists():
        found = read_json(folder.config_path)
        if sha256_of_json({name: found.get(name) for name in begun}) != sha256_of_json(begun):
            raise InputError(
                f"{folder.path} holds a training with other settings; delete it, or choose another "
                "folder with --out."
            )
    else:
        write_json(folder.config_path, begun)


def _train(
    trainer: RejectorTrainer,
    settings: RejectorSettings,
    folder: TrialFolder,
    hooks: Hooks,
) -> None:
    folder.load_progress(trainer)

    def on_step(steps: int, _: int) -> None:
        done = steps // trainer.steps_an_epoch
        hooks.on_progress("training the rejector, epochs", done, settings.epochs)

    train(trainer, save=partial(folder.save_progress, trainer), on_step=on_step)


def _write(
    source: Path,
    bundle: Bundle,
    found: SigmaCertifications,
    rejector: BundledRejector,
    history: list[dict[str, Any]],
    result: TrialResult,
    destination: Path,
) -> None:
    config, table = found.own.config, found.own.table
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    replaced = {CONFIG, CERTIFICATES, RECORD, CARD, CHECKSUMS}
    replaced |= {f"figures/{name}" for name in (ACCURACY_FIGURE, PROBABILITIES_FIGURE)}
    if bundle.sigma_tables is not None:
        for path in bundle.sigma_tables.paths(Path(CERTIFICATES), bundle.config.sigma).values():
            replaced |= {path.name, record_path(path).name}
    for name in checked_files(source):
        if name not in replaced:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
    write_tensors(partial / REJECTOR, rejector.network.state_dict())
    write_json(partial / REJECTOR_HISTORY, history)
    table.write(partial / CERTIFICATES)
    drawn = {"this denoiser with its rejector": table}
    if found.tables is not None:
        found.tables.write(partial / CERTIFICATES, config.sigma)
        drawn = found.tables.named()
    save_certificate_figures(drawn, partial / "figures")
    card = source / CARD
    license_id, origin = license_and_origin(read_text(card) if card.exists() else "")
    described = Described(
        config=portable(config, bundle.classifier, result),
        result=result,
        estimation_samples=config.certification.estimation_samples,
        shares=table.shares,
        origin=origin,
        license_id=license_id,
        rejector=RejectorRecord(settings=rejector.settings, held_out=rejector.held_out),
    )
    finish_bundle(partial, destination, described)
