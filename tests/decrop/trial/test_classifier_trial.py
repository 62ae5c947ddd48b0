"""Trials that train the classifier itself: scored while it trains, certified as it was trained."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import decrop
from decrop.bundle import export_bundle, load_bundle, verify_bundle
from decrop.cache import ContentCache
from decrop.classifiers.storage import load_stored_classifier
from decrop.cli.main import run
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.training.classifier import ClassifierTrainer
from decrop.training.hooks import NO_HOOKS, Hooks, TrialStoppedError
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs, prepare
from decrop.trial.result import TrialResult
from decrop.trial.run import run_trial, stopping_epoch
from tests.cases import slow_but
from tests.commands import set_options
from tests.decrop.digits_trial import CPU, certificates, sample_nothing, short_trial

ALONE = (
    "denoiser.source=none",
    "classifier.training.objective=gaussian",
    "classifier.training.trained_on=without_held_out",
    "classifier.training.epochs=4",
    "classifier.training.batch_size=256",
    "training.evaluations=2",
)


def alone(*assignments: str) -> TrialConfig:
    return short_trial(*ALONE, *assignments)


@pytest.fixture(autouse=True)
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    sample_nothing(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    cache = ContentCache(tmp_path_factory.mktemp("cache"))
    found = load_inputs(alone(), cache, CPU)
    assert cache.computations("classifier") == 0
    return found


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the trainer of each step has."""
    steps: list[int] = []
    step = ClassifierTrainer.step

    def spy(trainer: ClassifierTrainer) -> None:
        steps.append(len(trainer._labels))
        step(trainer)

    monkeypatch.setattr(ClassifierTrainer, "step", spy)
    return steps


def trained(
    config: TrialConfig,
    data: TrialInputs,
    folder: TrialFolder,
    should_stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Iterator[Report]:
    cache = ContentCache(folder.path / "unused")
    options = {"split": "held_out", **options}
    hooks = NO_HOOKS if should_stop is None else Hooks(should_stop=should_stop)
    return run_trial(config, data, folder, cache, hooks=hooks, **options)


def left_by(folder: TrialFolder) -> dict[str, Any]:
    classifier, _ = load_stored_classifier(folder.classifier_path)
    return {
        "reports": read_json(folder.reports_path),
        "history": [{**row, "seconds": 0} for row in read_json(folder.history_path)],
        "classifier": classifier.content_hash(),
        "certificates": certificates(CertificateTable.read_tsv(folder.certificates_path)),
        "result": {**read_json(folder.result_path), "seconds": None},
    }


def test_it_is_scored_on_held_out_images_while_it_trains(
    data: TrialInputs, trial: TrialFolder, watched: list[int]
) -> None:
    reports = list(trained(alone(), data, trial))
    assert [(r.evaluation, r.epoch, r.finished) for r in reports] == [(1, 2, False), (2, 4, True)]
    assert [row["epoch"] for row in read_json(trial.history_path)] == [1, 2, 3, 4]
    result = TrialResult.from_json(read_json(trial.result_path))
    held_out = data.limited.all.subset(data.limited.held_out_mask)
    assert (result.split, result.flip_rate) == ("held_out", None)
    assert result.hashes["certified_images"] == held_out.content_hash()
    classifier, _ = load_stored_classifier(trial.classifier_path)
    assert result.hashes["classifier"] == classifier.content_hash()
    # What is certified is what was trained, in eval mode: it knows the digits, its start did not.
    images = data.test.images.float() / 255
    with torch.no_grad():
        assert (classifier(images).argmax(1) == data.test.labels).float().mean() > 0.6
    assert not trial.denoiser_path.exists()
    count = len(load_dataset(alone().dataset).train.labels)
    assert set(watched) == {count - len(held_out)}


def test_held_out_images_are_not_trained_on(data: TrialInputs) -> None:
    held_out = set(data.limited.all.indices[data.limited.held_out_mask].tolist())
    assert data.training_images is not None
    assert not held_out & set(data.training_images.indices.tolist())
    on_few = load_inputs(alone("classifier.training.trained_on=limited"), None, CPU)  # type: ignore[arg-type]
    kept = data.limited.all.indices[~data.limited.held_out_mask]
    assert on_few.training_images is not None
    assert torch.equal(on_few.training_images.indices, kept)


@pytest.mark.slow
@pytest.mark.parametrize("steps", slow_but([3, 11], 11))
def test_a_trial_that_was_stopped_leaves_what_an_uninterrupted_one_does(
    data: TrialInputs, trial: TrialFolder, tmp_path: Path, steps: int
) -> None:
    done = 0

    def stop() -> bool:
        nonlocal done
        done += 1
        return done == steps

    with pytest.raises(TrialStoppedError):
        list(trained(alone(), data, trial, stop))
    assert trial.checkpoint_path.exists() and not trial.result_path.exists()
    assert len(list(trained(alone(), data, trial))) == 2
    whole = TrialFolder(tmp_path / "whole")
    list(trained(alone(), data, whole))
    assert left_by(trial) == left_by(whole)


@pytest.mark.slow
def test_the_final_certifies_the_weights_of_the_trial(
    data: TrialInputs, trial: TrialFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(trained(alone(), data, trial))

    def working(*_: object) -> None:
        raise AssertionError("nothing is trained again")

    monkeypatch.setattr(ClassifierTrainer, "step", working)
    final = TrialFolder(tmp_path / "final")
    (report,) = trained(alone(), data, final, split="test", trained=trial)
    assert (report.evaluation, report.epoch, report.finished) == (1, 4, True)
    result = TrialResult.from_json(read_json(final.result_path))
    before = TrialResult.from_json(read_json(trial.result_path))
    assert (result.split, result.scores.images) == ("test", len(data.test))
    assert result.hashes["classifier"] == before.hashes["classifier"]
    assert read_json(final.history_path) == read_json(trial.history_path)
    files = {path: path.read_bytes() for path in final.path.rglob("*") if path.is_file()}
    assert list(trained(alone(), data, final, split="test", trained=trial)) == [report]
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.slow
def test_a_classifier_of_the_limited_data_is_trained_once_more_on_all_of_it(
    data: TrialInputs, tmp_path: Path, watched: list[int]
) -> None:
    config = alone("classifier.training.trained_on=limited")
    assert config.trains_again_for_test and not alone().trains_again_for_test
    for split in ("held_out", "test"):
        list(trained(config, data, TrialFolder(tmp_path / split), split=split))
    assert sorted(set(watched)) == [30, 40]


@pytest.mark.slow
def test_another_seed_of_the_trial_is_another_training(
    data: TrialInputs, trial: TrialFolder, tmp_path: Path
) -> None:
    other = TrialFolder(tmp_path / "other")
    list(trained(alone("classifier.training.epochs=2"), data, trial))
    list(trained(alone("classifier.training.epochs=2", "seed=1"), data, other))
    assert left_by(trial)["classifier"] != left_by(other)["classifier"]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(
    data: TrialInputs, trial: TrialFolder, tmp_path: Path
) -> None:
    # Learning rates that undo what was learnt.
    config = alone(
        "training.early_stopping=true",
        "classifier.training.schedule=drops",
        "classifier.training.learning_rate=0.005",
        "classifier.training.learning_rate_drop_every=2",
    )
    until_first = TrialFolder(tmp_path / "first")
    reports = list(trained(config, data, trial))
    best = max(reports[:2], key=lambda report: report.average_certified_radius)
    assert reports[-1].epoch == stopping_epoch(config, trial) == best.epoch
    shorter = list(islice(trained(config, data, until_first), best.evaluation))
    kept, _ = load_stored_classifier(until_first.classifier_path)
    assert shorter[-1].epoch == best.epoch
    assert left_by(trial)["classifier"] == kept.content_hash()


@pytest.mark.slow
def test_its_bundle_predicts_and_repeats_its_certificates(
    data: TrialInputs, trial: TrialFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(trained(alone(), data, trial))
    final = TrialFolder(tmp_path / "final")
    list(trained(alone(), data, final, split="test", trained=trial))
    classifier, names = load_stored_classifier(final.classifier_path)
    path = tmp_path / "bundle"
    export_bundle(final, classifier, names, path, origin="Made for tests.")
    assert not (path / "denoiser.safetensors").exists()
    bundle = load_bundle(path)
    assert verify_bundle(bundle) == len(bundle.certificates.idx) == len(data.test)
    assert bundle.config.classifier.training == alone().classifier.training
    model = decrop.load(path)
    outcome = model.certify(data.test.images, data.test.labels, data.test.indices)
    assert outcome.radius.tolist() == bundle.certificates.radius.tolist()
    noisy = torch.rand(2, *data.test.images.shape[1:])
    assert torch.equal(model.denoise(noisy), noisy)
    card = (path / "README.md").read_text()
    assert "# Classifier for certified robustness" in card
    assert "was sampled: this classifier," in card and "denoiser" not in card.split("\n---\n")[0]
    assert "Trained on the training split, without the held-out images." in card
    assert run(["figures", str(path), "--to", str(tmp_path / "figures")]) == 0
    assert not (tmp_path / "figures" / "samples.png").exists()
    with pytest.raises(InputError, match="write the denoiser, and the trial has none"):
        export_bundle(final, classifier, names, tmp_path / "other", origin="x.", onnx=True)
    assert not (tmp_path / "other").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("classifier.training=null", "denoiser.source = none: such a trial trains"),
        ("training.evaluations=5", "must not exceed classifier.training.epochs (4)"),
    ],
)
def test_settings_of_no_such_trial_are_refused(assignment: str, said: str) -> None:
    for check in (prepare, lambda config: load_inputs(config, None, CPU)):  # type: ignore[arg-type]
        with pytest.raises(InputError) as error:
            check(alone(assignment))
        assert said in str(error.value)


def test_there_is_no_denoiser_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = set_options(*ALONE)
    assert run(["train", "digits", *options, "--out", str(tmp_path / "run")]) == 2
    assert "`decrop classifier train`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_settings_without_a_denoiser_certify_the_trained_classifier(
    data: TrialInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(alone("execution.precision=fp32").model_dump_json())
    assert run(["certify", str(settings), "--out", str(tmp_path / "c.tsv"), "--json"]) == 0
    table = CertificateTable.read_tsv(tmp_path / "c.tsv")
    assert (table.predict == table.label).mean() > 0.5
    capsys.readouterr()
