"""`decrop classifier train` leaves weights that other commands take, and goes on when killed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.classifiers.load import untrained_classifier
from decrop.cli.main import run
from decrop.cli.options import load_trial
from decrop.data.datasets import load_dataset
from decrop.data.images import InMemoryImages
from decrop.data.limited import limited_data
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.training.classifier import ClassifierTrainer
from tests.cases import cases
from tests.commands import contents, refused, set_options
from tests.commands import decrop as command
from tests.decrop.digits_trial import files_in
from tests.decrop.interrupted_training import interrupted_once

SHORT = (
    "classifier.training.objective=adre_adv",
    "classifier.training.noise_samples=2",
    "classifier.training.attack_steps=1",
    "classifier.training.epochs=2",
    "classifier.training.batch_size=256",
    "execution.device=cpu",
    "execution.precision=fp32",
    "certification.test_images=6",
    "certification.max_samples=60",
    "certification.selection_samples=10",
    "execution.chunk_size=10",
)
STEPS = 10


def arguments(out: Path, *assignments: str) -> list[str]:
    options = set_options(*SHORT, *assignments)
    return ["classifier", "train", "classifier_digits", *options, "--out", str(out), "--json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "classifier"
    assert run(arguments(out)) == 0
    return out


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def working(*_: object) -> None:
        raise AssertionError("this is work")

    monkeypatch.setattr(ClassifierTrainer, "step", working)


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    epochs = [{**epoch, "seconds": 0} for epoch in report["epochs"]]
    return {**report, "epochs": epochs, "seconds": 0}


def test_run_leaves_weights_settings_and_report(trained: Path) -> None:
    written = {"inputs.json", "weights.safetensors", "settings.yaml", "report.json"}
    assert files_in(trained) == written
    report = read_json(trained / "report.json")
    assert report["objective"] == "adre_adv"
    assert report["sigma"] == 0.35
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    assert report["epochs"][1]["runner_up_cross_entropy"] > 0
    config = load_trial(str(trained / "settings.yaml"), [])
    assert config == load_trial("classifier_digits", SHORT)


def test_report_scores_held_out_images_that_were_not_trained_on(trained: Path) -> None:
    report = read_json(trained / "report.json")
    config = load_trial("classifier_digits", SHORT)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    held_out = limited.all.subset(limited.held_out_mask)
    assert report["held_out"]["images"] == len(held_out)
    assert report["training_images"] == len(dataset.train.labels) - len(held_out)
    weights = str(trained / "weights.safetensors")
    given = ["classifier.training=null", f"classifier.weights={weights}"]
    loaded = untrained_classifier(load_trial("classifier_digits", given).classifier, dataset)
    assert loaded.content_hash() == report["classifier"]
    right = (loaded(held_out.images / 255).argmax(1) == held_out.labels).float().mean().item()
    assert report["held_out"]["clean_accuracy"] == pytest.approx(right)
    assert 0.1 < report["held_out"]["noisy_accuracy"] < report["held_out"]["clean_accuracy"]


def test_test_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = load_dataset(load_trial("classifier_digits", []).dataset).test
    read = InMemoryImages.images

    def watched(source: InMemoryImages, indices: torch.Tensor) -> torch.Tensor:
        assert len(source.labels) != len(test.labels), "these are test images"
        return read(source, indices)

    monkeypatch.setattr(InMemoryImages, "images", watched)
    plain = ("classifier.training.objective=plain", "classifier.training.epochs=1")
    assert run(arguments(tmp_path / "run", *plain)) == 0


def test_a_classifier_trained_on_all_images_is_not_scored(tmp_path: Path) -> None:
    plain = ("classifier.training.objective=plain", "classifier.training.trained_on=all")
    ran = command(*arguments(tmp_path / "run", *plain))
    assert "trained on all images, so there is none to score it on" in ran.out
    assert ran.last_line["report"]["held_out"] is None


def test_weights_are_certified_at_once(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "certificates.tsv"
    settings, weights = (str(trained / name) for name in ("settings.yaml", "weights.safetensors"))
    assert run(["certify", settings, "--weights", weights, "--out", str(out)]) == 0
    assert len(CertificateTable.read_tsv(out).idx) == 6


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    with interrupted_once(monkeypatch, lambda trainer: trainer.steps_done == 7):
        assert run(arguments(out)) == 130
    assert files_in(out) == {"inputs.json", "settings.yaml", "checkpoint.pt", "history.json"}
    capsys.readouterr()
    assert run(arguments(out)) == 0
    steps = re.findall(rf"training, steps: (\d+) of {STEPS}", capsys.readouterr().out)
    assert [int(number) for number in steps] == [8, 9, 10]
    assert files_in(out) == files_in(trained)
    assert (out / "weights.safetensors").read_bytes() == (
        trained / "weights.safetensors"
    ).read_bytes()
    assert untimed(read_json(out / "report.json")) == untimed(read_json(trained / "report.json"))


@pytest.mark.usefixtures("no_work")
def test_a_finished_run_is_not_done_again(trained: Path) -> None:
    before = contents(trained)
    ran = command(*arguments(trained))
    assert ran.code == 0 and contents(trained) == before
    assert ran.last_line["report"] == read_json(trained / "report.json")
    assert ran.last_line["weights"] == str(trained / "weights.safetensors")


@pytest.mark.usefixtures("no_work")
def test_a_folder_of_other_settings_is_left_alone(trained: Path) -> None:
    before = contents(trained)
    message = refused(*arguments(trained, "sigma=0.5"))
    assert message == (
        f"error: {trained} holds a training with other settings; choose another folder with "
        "--out.\n"
    )
    assert contents(trained) == before


def test_given_weights_can_be_trained_on_and_are_those_that_it_goes_on_from(
    trained: Path, tmp_path: Path
) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "more"
    start.write_bytes((trained / "weights.safetensors").read_bytes())
    low = "classifier.training.learning_rate=1e-9"
    given = arguments(out, f"classifier.training.initial_weights={start}", low)
    assert run(given) == 0
    before, after = (read_json(folder / "report.json") for folder in (trained, out))
    assert after["epochs"][0]["total"] < before["epochs"][0]["total"]
    assert after["classifier"] != before["classifier"]
    # Other weights under the same name.
    start.write_bytes((out / "weights.safetensors").read_bytes())
    left = contents(out)
    assert "was begun with other initial weights (" in refused(*given)
    assert contents(out) == left


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("assignments", "named"),
    [
        (["classifier.training=null"], "classifier.training: nothing says how to train"),
        (["classifier.training.initial_weights=nowhere"], "nowhere does not exist"),
        (["classifier.training.initial_weights=pickle.pt"], "pickle.pt is a pickle"),
        (["classifier.training.objective=adre"], "classifier.training.objective = 'adre'"),
        (["classifier.training.regularisation_weight=-1"], "greater than or equal to 0"),
        (["classifier.training.lambda=1"], "classifier.training.lambda is not a setting"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_created(
    assignments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": torch.zeros(3)}, "pickle.pt")
    message = refused(*arguments(Path("run"), *assignments))
    assert named in message
    assert files_in(tmp_path) == {"pickle.pt"}


@cases(
    ("preset", "published"),
    [
        ("gaussian", (150, 400, 50)),
        ("adre_reg", (150, 400, 50)),
        ("smooth_adv", (150, 400, 50)),
        ("adre_adv", (150, 400, 50)),
        ("plain", (300, 256, 100)),
    ],
)
def test_presets_have_the_published_schedule(preset: str, published: tuple[int, ...]) -> None:
    training = load_trial(f"classifier_cifar10_{preset}", []).classifier.training
    assert training is not None
    assert training.objective == preset
    assert published == (training.epochs, training.batch_size, training.learning_rate_drop_every)
    assert (training.learning_rate, training.learning_rate_drop_factor) == (0.1, 0.1)
    assert (training.schedule, training.augmentation) == ("drops", "crop_and_flip")
    if preset == "plain":
        assert training.trained_on == "all"
        assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 5e-4)
    else:
        assert training.noise_samples == (1 if preset == "gaussian" else 8)
        assert training.attack_steps == 2
