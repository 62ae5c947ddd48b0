"""The classifier of a trial's settings is trained once, and again where anything differs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.data.datasets import Dataset
from decrop.data.limited import limited_data
from decrop.networks.registry import build_classifier_network
from decrop.training.trained_classifier import classifier_to_train, load_classifier
from tests.decrop.tiny import CPU, random_images, tiny_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = {"epochs": 1, "batch_size": 16}
GAUSSIAN = {**TRAINING, "objective": "gaussian"}


def dataset(seed: int = 0) -> Dataset:
    images = random_images(24, seed)
    return tiny_dataset(torch.arange(24) % 4, class_count=4, images=images)


def config(training: dict[str, Any] | None = None, **given: Any) -> TrialConfig:
    classifier = {
        "source": given.pop("source", "small_cnn"),
        "training": training or TRAINING,
        **{name: given.pop(name) for name in ("mean", "std") if name in given},
    }
    limited = {"fraction": 0.5, "held_out_fraction": 0.34}
    return TrialConfig.model_validate({"limited": limited, "classifier": classifier, **given})


def initial_weights(folder: Path, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_classifier_network("small_cnn", image_channels=1, class_count=4)
    path = folder / f"{seed}.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


def test_trained_classifier_is_trained_once(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    first = load_classifier(config(), dataset(), cache, CPU)
    again = load_classifier(config(), dataset(), cache, CPU)
    assert cache.computations("classifier") == 1
    assert first.content_hash() == again.content_hash()
    anew = load_classifier(config(), dataset(), ContentCache(tmp_path / "other"), CPU)
    assert anew.content_hash() == first.content_hash()


@pytest.mark.parametrize(
    "changed",
    [
        {"training": {**TRAINING, "seed": 1}},
        {"training": {**TRAINING, "epochs": 2}},
        {"training": {**TRAINING, "learning_rate": 0.02}},
        {"training": {**TRAINING, "batch_size": 8}},
        {"training": {**TRAINING, "precision": "bf16"}},
        {"training": {**TRAINING, "trained_on": "without_held_out"}},
        {"training": GAUSSIAN},
        {"mean": [0.4], "std": [0.25]},
        {"source": "cifar_resnet20"},
        {"data": 1},
    ],
)
def test_other_training_is_another_classifier(tmp_path: Path, changed: dict[str, Any]) -> None:
    cache = ContentCache(tmp_path)
    first = load_classifier(config(), dataset(), cache, CPU)
    data = dataset(seed=changed.pop("data", 0))
    other = load_classifier(config(**changed), data, cache, CPU)
    assert cache.computations("classifier") == 2
    assert other.content_hash() != first.content_hash()


def test_noise_has_the_trials_sigma_unless_training_has_its_own(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    own = {**GAUSSIAN, "sigma": 0.5}
    by_trial = [
        load_classifier(config(GAUSSIAN, sigma=sigma), dataset(), cache, CPU).content_hash()
        for sigma in (0.25, 0.5)
    ]
    assert len(set(by_trial)) == 2
    assert load_classifier(config(own), dataset(), cache, CPU).content_hash() == by_trial[1]
    assert cache.computations("classifier") == 2


def test_plain_training_is_shared_by_trials_of_all_sigmas(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    for sigma in (0.25, 0.5):
        load_classifier(config(sigma=sigma), dataset(), cache, CPU)
    assert cache.computations("classifier") == 1


def test_initial_weights_count_by_content(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "cache")
    one, other = (initial_weights(tmp_path, seed) for seed in (1, 2))
    copy = shutil.copy(one, tmp_path / "copy")
    hashes = {
        load_classifier(
            config({**TRAINING, "initial_weights": str(path)}), dataset(), cache, CPU
        ).content_hash()
        for path in (one, copy, other)
    }
    assert cache.computations("classifier") == len(hashes) == 2
    scratch = load_classifier(config(), dataset(), cache, CPU)
    assert scratch.content_hash() not in hashes


def test_held_out_images_are_left_out_where_asked() -> None:
    data = dataset()
    assert len(classifier_to_train(config(), data).images) == 24
    without = config({**TRAINING, "trained_on": "without_held_out"})
    chosen = classifier_to_train(without, data).images
    limited = limited_data(data, without.limited)
    held_out = limited.all.indices[limited.held_out_mask]
    assert len(held_out) == 4
    assert sorted([*chosen.indices.tolist(), *held_out.tolist()]) == list(range(24))
    assert torch.equal(chosen.images, data.train.images(chosen.indices))
