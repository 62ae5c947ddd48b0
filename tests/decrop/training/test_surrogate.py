"""Surrogates: they come to agree with a black box, and ask it about nothing twice or unasked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decrop.black_box.memory import ANSWERS
from decrop.cache import ContentCache
from decrop.cli.options import load_trial
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import limited_data
from decrop.errors import InputError, RunError
from decrop.files import sha256_of_tensors
from decrop.synthesis.query_images import PIECE
from decrop.training.hooks import Hooks
from decrop.training.surrogate import (
    SURROGATE,
    Surrogate,
    SurrogateToTrain,
    load_surrogate,
    surrogate_to_train,
)
from decrop.trial.prepare import load_inputs
from tests.cases import cases
from tests.decrop.black_box.functions import InProcess, through_surrogate
from tests.decrop.digits_trial import CPU
from tests.refusals import one_line

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES, LIMITED, HELD_OUT = 900, 320, 80
DIGITS = (
    "classifier.training.epochs=5",
    "classifier.training.seed=3",
)
BLACK_BOX = through_surrogate(
    QUERIES, crop_padding=1, flip_probability=0, epochs=8, learning_rate=0.01
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    cache = ContentCache(tmp_path_factory.mktemp("target"))
    return InProcess(load_inputs(load_trial("digits", DIGITS), cache, CPU).classifier)


def box(target: InProcess, *, labels_only: bool = False) -> InProcess:
    """The same classifier, of which nothing was asked yet."""
    return InProcess(target._hidden[0], labels_only=labels_only)


def settings(*assignments: str) -> TrialConfig:
    return load_trial("digits", [*BLACK_BOX, *assignments])


def to_train(*assignments: str) -> SurrogateToTrain:
    config = settings(*assignments)
    dataset = load_dataset(config.dataset)
    return surrogate_to_train(config, dataset, limited_data(dataset, config.limited))


def steal(target: InProcess, folder: Path, *assignments: str) -> Surrogate:
    return load_surrogate(to_train(*assignments), target, ContentCache(folder), CPU)


def hashes(images: Tensor) -> list[str]:
    return [sha256_of_tensors({"image": image}) for image in images]


def asked(target: InProcess) -> list[str]:
    return hashes(torch.cat(target.asked))


@pytest.mark.slow
@pytest.mark.parametrize(("labels_only", "least"), [(False, 0.9), (True, 0.85)])
def test_surrogates_come_to_agree(
    target: InProcess, tmp_path: Path, labels_only: bool, least: float
) -> None:
    fresh = box(target, labels_only=labels_only)
    given = to_train()
    found = load_surrogate(given, fresh, ContentCache(tmp_path), CPU)
    # The bar: untrained networks agree on a tenth, and test images were never asked about.
    dataset = load_dataset(settings().dataset)
    test = dataset.test.images(torch.arange(500)).float() / 255
    same = found.classifier(test).argmax(1) == box(target).probabilities(test).argmax(1)
    assert same.float().mean() > least
    held_out = given.held_out.images.float() / 255
    agreeing = found.classifier(held_out).argmax(1) == box(target).probabilities(held_out).argmax(1)
    assert found.agreement == pytest.approx(agreeing.double().mean().item())
    answers = given.ask(fresh, ContentCache(tmp_path))
    assert answers.labels_only == labels_only
    assert fresh.images_asked == QUERIES


def test_limited_images_are_asked_about_and_held_out_ones_never_trained_on(
    target: InProcess, tmp_path: Path
) -> None:
    fresh = box(target)
    given = to_train()
    answers = given.ask(fresh, ContentCache(tmp_path))
    limited = given.limited.all
    held_out = set(hashes(given.held_out.images.float() / 255))
    known = set(hashes(limited.images.float() / 255))
    assert len(limited) == LIMITED and len(given.held_out) == HELD_OUT
    questions = asked(fresh)
    assert len(questions) == QUERIES == answers.asked == given.queries
    assert known <= set(questions)
    trained_on = set(hashes(answers.images.float() / 255))
    assert not trained_on & held_out
    assert len(answers.images) == len(answers.probabilities) == QUERIES - HELD_OUT
    # Of the dataset, nothing but the limited images.
    dataset = load_dataset(settings().dataset)
    for source in (dataset.train, dataset.test):
        pixels = source.images(torch.arange(len(source.labels))).float() / 255
        assert set(questions) & set(hashes(pixels)) <= known
    # The answers are those of the images beside them.
    expected = box(target).probabilities(answers.images.float() / 255)
    torch.testing.assert_close(answers.probabilities, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_other_trainings_use_the_same_answers(target: InProcess, tmp_path: Path) -> None:
    fresh = box(target)
    first = steal(fresh, tmp_path)
    others = [
        steal(fresh, tmp_path, assignment)
        for assignment in ("seed=1", "classifier.surrogate.epochs=1")
    ]
    again = steal(fresh, tmp_path)
    assert fresh.images_asked == QUERIES
    assert again.agreement == first.agreement
    found = {one.classifier.content_hash() for one in (first, *others, again)}
    assert len(found) == ContentCache(tmp_path).computations(SURROGATE) == 3


def test_more_queries_ask_about_the_new_images_only(target: InProcess, tmp_path: Path) -> None:
    fresh = box(target)
    only_moved = ("classifier.surrogate.mixed_share=0", "classifier.surrogate.generated_share=0")
    quick = (*only_moved, "classifier.surrogate.epochs=1")
    steal(fresh, tmp_path, *quick, f"classifier.surrogate.queries={LIMITED + PIECE}")
    steal(fresh, tmp_path, *quick, f"classifier.surrogate.queries={LIMITED + 2 * PIECE}")
    assert fresh.images_asked == LIMITED + 2 * PIECE
    assert len(set(asked(fresh))) > LIMITED + PIECE


@pytest.mark.slow
def test_what_was_answered_survives_a_kill_and_the_same_seed_gives_the_same_surrogate(
    target: InProcess, tmp_path: Path
) -> None:
    fresh = box(target)
    fresh.dies_after = QUERIES // 2
    with pytest.raises(RunError):
        steal(fresh, tmp_path)
    before = fresh.images_asked
    assert 0 < before <= QUERIES // 2
    fresh.dies_after = None
    resumed = steal(fresh, tmp_path)
    assert fresh.images_asked == QUERIES
    # A kill in the middle of a piece is not in this count: that piece would be asked about again.
    assert ContentCache(tmp_path).computations(ANSWERS) == len(fresh.asked)
    undisturbed = steal(box(target), tmp_path / "undisturbed")
    assert resumed.classifier.content_hash() == undisturbed.classifier.content_hash()


@pytest.mark.slow
def test_a_stolen_surrogate_is_taken_up_by_its_weights(target: InProcess, tmp_path: Path) -> None:
    first = steal(box(target), tmp_path / "first")
    weights = tmp_path / "weights.safetensors"
    save_file(first.classifier.network.state_dict(), weights)
    fresh = box(target)
    assignment = f"classifier.surrogate.weights={weights}"
    assert to_train(assignment).queries == HELD_OUT
    again = steal(fresh, tmp_path / "again", assignment)
    assert fresh.images_asked == HELD_OUT
    assert again.classifier.content_hash() == first.classifier.content_hash()
    assert again.agreement == first.agreement


def test_progress_is_told(target: InProcess, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def listen(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    load_surrogate(
        to_train("classifier.surrogate.epochs=1"),
        box(target),
        ContentCache(tmp_path),
        CPU,
        Hooks(on_progress=listen),
    )
    answered = [done for what, done, _ in told if what == "asking, images"]
    assert answered == sorted(answered)
    assert answered[0] == HELD_OUT and answered[-1] == QUERIES
    assert [done for what, done, _ in told if "training" in what] == list(range(1, 8))


@cases(
    ("assignments", "named"),
    [
        (["classifier.surrogate=null"], "classifier.surrogate: nothing says through what"),
        ([f"classifier.surrogate.queries={LIMITED - 1}"], f"must be at least {LIMITED}"),
        (["classifier.surrogate.architecture=half_alexnet"], "half_alexnet needs images of 15x15"),
        (["classifier.surrogate.weights=/nowhere"], "/nowhere does not exist"),
    ],
)
def test_what_cannot_be_stolen_is_refused_unasked(assignments: list[str], named: str) -> None:
    said = one_line(to_train, *assignments)
    assert named in said


def test_a_surrogate_is_of_an_endpoint_only() -> None:
    with pytest.raises(InputError, match="surrogate is of an endpoint, not of small_cnn"):
        load_trial("digits", ["classifier.surrogate.queries=400"])
