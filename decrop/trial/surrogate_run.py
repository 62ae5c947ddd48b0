"""Stealing a surrogate in a folder: answers, checkpoint, weights and report."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decrop.black_box import endpoint_classifier
from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import limited_data
from decrop.errors import InputError
from decrop.files import read_json, sha256_of_json, write_json
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.training.loop import OnCount
from decrop.training.surrogate import surrogate_to_train
from decrop.trial.certify import clean_accuracy
from decrop.trial.classifier_run import (
    ClassifierFolder,
    check_settings,
    train_in_folder,
    write_settings,
)
from decrop.trial.folder import keep_inputs


class SurrogateFolder(ClassifierFolder):
    """The files of one stolen surrogate; any may be missing while it runs.

    Attributes:
        answers_path: folder of the black box's answers.
        ledger_path: what was asked of the black box.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers_path = path / "answers"
        self.ledger_path = path / "queries.json"


def steal_classifier(
    config: TrialConfig,
    folder: SurrogateFolder,
    *,
    on_begin: Callable[[int], None] | None = None,
    on_asked: OnCount | None = None,
    on_step: OnCount | None = None,
) -> dict[str, Any]:
    """Steal a surrogate of a trial's black box, and compare both on held-out images.

    What was answered already is not asked again, and training goes on from the folder's checkpoint;
    a surrogate that is finished is not stolen again.

    Args:
        config: settings with `classifier.surrogate`.
        folder: where everything is written.
        on_begin: called with the most images that will be asked about.
        on_asked: called with images that are answered and how many there are.
        on_step: called with steps done and in all.

    Returns:
        the report: images asked about in all and by this call; whether the black box gives labels
        only; agreement and both accuracies on held-out images; records of the epochs; hashes.

    Raises:
        InputError: the settings cannot be used, or the folder holds another training.
        RunError: the black box does not answer.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    check_settings(folder, config)
    device = resolve_device(config.execution.device)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    given = surrogate_to_train(config, dataset, limited)
    if given.settings.weights is not None:
        raise InputError(
            f"classifier.surrogate.weights: {given.settings.weights} is a surrogate already; to "
            "steal another one, set it to null."
        )
    keep_inputs(folder.inputs_path, {"limited_data": limited.all.content_hash()})
    if folder.report_path.exists():
        finished: dict[str, Any] = read_json(folder.report_path)
        return {**finished, "asked_now": 0}
    write_settings(folder, config)
    if on_begin is not None:
        on_begin(given.queries)
    target = endpoint_classifier(config.classifier, dataset, folder.ledger_path)
    keep_inputs(folder.inputs_path, {"classifier": target.content_hash()})
    answers = given.ask(target, ContentCache(folder.answers_path), on_asked)
    trainer = given.trainer(answers, device)
    origin = sha256_of_json(given.determined_by(target, device))
    weights = train_in_folder(trainer, folder, origin, on_step=on_step)
    given.classifier.network.load_state_dict(weights)
    held_out = given.held_out
    right = answers.held_out.argmax(1) == held_out.labels
    report = {
        "target": target.content_hash(),
        "architecture": given.settings.architecture,
        "queries": given.queries,
        "labels_only": answers.labels_only,
        "held_out": {
            "images": len(held_out),
            "agreement": given.agreement(answers, device),
            "accuracy": clean_accuracy(given.classifier, held_out, device),
            "target_accuracy": right.double().mean().item(),
        },
        "epochs": [asdict(record) for record in trainer.history],
        "seconds": round(sum(record.seconds for record in trainer.history), 3),
        "precision": resolve_precision(given.settings.precision, device),
        "device": device.type,
        "classifier": given.classifier.cpu().content_hash(),
        "limited_data": limited.all.content_hash(),
    }
    write_json(folder.report_path, report)
    folder.checkpoint_path.unlink(missing_ok=True)
    return {**report, "asked_now": answers.asked}
