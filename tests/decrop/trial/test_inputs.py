"""A trial's inputs hold what it reads, and can be checked without training a classifier."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import decrop.training.trained_classifier
from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs, prepare
from tests.decrop.digits_trial import CPU, TEST_IMAGES, short_trial
from tests.refusals import one_line


def test_inputs_hold_limited_data_and_evenly_spaced_test_images(inputs: TrialInputs) -> None:
    dataset = load_dataset(short_trial().dataset)
    assert inputs.class_names == tuple("0123456789")
    assert torch.bincount(inputs.limited.all.labels).tolist() == [4] * 10
    held_out = inputs.limited.all.subset(inputs.limited.held_out_mask)
    assert torch.bincount(held_out.labels).tolist() == [1] * 10
    for part, source in ((inputs.limited.all, dataset.train), (inputs.test, dataset.test)):
        assert torch.equal(part.images, source.images(part.indices))
        assert torch.equal(part.labels, source.labels[part.indices])
    assert len(inputs.test) == TEST_IMAGES
    assert inputs.test.indices.tolist() == list(range(0, 500, 500 // TEST_IMAGES))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*arguments: object) -> None:
        raise AssertionError("a check trains nothing")

    monkeypatch.setattr(decrop.training.trained_classifier, "train", train)


@pytest.mark.usefixtures("no_training")
def test_check_passes_what_can_be_loaded() -> None:
    prepare(short_trial())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("assignments", "named"),
    [
        (["limited.fraction=0.001"], "limited.fraction 0.001"),
        (
            ["limited.held_out_fraction=0.05"],
            "limited.fraction 0.03 with limited.held_out_fraction 0.05",
        ),
        (["dataset.path=/nowhere"], "dataset.path"),
        (["dataset.name=cifar10", "dataset.path=/nowhere"], "dataset.path"),
        (["classifier.training=null"], "classifier.weights"),
        (["classifier.training=null", "classifier.weights=/nowhere"], "classifier.weights"),
        (
            ["classifier.training.initial_weights=/nowhere"],
            "classifier.training.initial_weights: /nowhere does not exist",
        ),
        (
            ["certification.test_images=501"],
            "certification.test_images = 501: the test split",
        ),
        (["classifier.mean=[0.5, 0.5]", "classifier.std=[0.2, 0.2]"], "classifier.mean"),
    ],
)
def test_check_and_load_refuse_the_same(assignments: list[str], named: str, tmp_path: Path) -> None:
    config = short_trial(*assignments)
    loads: list[Callable[[TrialConfig], object]] = [
        prepare,
        lambda config: load_inputs(config, ContentCache(tmp_path), CPU),
    ]
    checked, loaded = (one_line(load, config) for load in loads)
    assert checked == loaded
    assert checked.startswith(named)
    assert not list(tmp_path.iterdir())
