import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import StagedClassifier, find_stages
from decrop.config import ClassifierArchitecture
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from tests.cases import cases
from tests.decrop.rejecting import SHAPE, small_classifier
from tests.decrop.tiny import tiny_classifier


def wrapped(network: nn.Module, channels: int = 3, class_count: int = 10) -> Classifier:
    return Classifier(
        network,
        architecture="mine",
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_count=class_count,
    )


@cases(
    ("architecture", "stages", "channels"),
    [
        ("small_cnn", ("maps.5", "maps.9"), (64, 64)),
        ("cifar_resnet20", ("layer1", "layer2", "layer3"), (16, 32, 64)),
        ("resnet12", ("layer1", "layer2", "layer3", "layer4"), (64, 160, 320, 640)),
        ("half_alexnet", ("conv1", "conv2", "conv5", "batch_norm5"), (24, 64, 64, 64)),
    ],
)
def test_stages_of_registered_classifiers(
    architecture: ClassifierArchitecture, stages: tuple[str, ...], channels: tuple[int, ...]
) -> None:
    classifier = wrapped(build_classifier_network(architecture, image_channels=3, class_count=10))
    assert find_stages(classifier, (3, 32, 32), most=4) == stages
    assert StagedClassifier(classifier, stages).channels((3, 32, 32)) == channels
    assert find_stages(classifier, (3, 32, 32), most=2) == stages[-2:]


class Odd(nn.Module):
    """A module that is used twice, one that returns a pair, one pixel, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.body = nn.ModuleDict({"halved": nn.Conv2d(3, 5, 2, 2), "again": nn.Conv2d(5, 7, 2, 2)})
        self.pair = nn.AdaptiveMaxPool2d(2, return_indices=True)
        self.pixel = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(7, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body["again"](self.body["halved"](self.twice(self.twice(images))))
        self.pair(maps)
        logits: Tensor = self.fc(self.pixel(maps).flatten(1))
        return logits


def test_only_modules_that_give_one_map_count() -> None:
    assert find_stages(wrapped(Odd()), (3, 16, 16), most=4) == ("body.halved", "body.again")


def test_a_backbone_in_one_module_is_looked_into() -> None:
    def half(channels_in: int, channels_out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, 2, 1), nn.ReLU())

    backbone = nn.Sequential(half(3, 4), half(4, 5), half(5, 6))
    network = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 10))
    # At the outermost level the size changes once, behind the whole backbone.
    assert find_stages(wrapped(network), (3, 32, 32), most=4) == ("0.0", "0.1", "0.2", "1")


def test_a_classifier_without_maps_has_no_stages() -> None:
    assert find_stages(tiny_classifier(), (1, 6, 6), most=4) == ()
    logits, maps = StagedClassifier(tiny_classifier(), ())(torch.rand(2, 1, 6, 6))
    assert (logits.shape, maps) == ((2, 4), [])


def test_maps_are_the_outputs_of_the_modules() -> None:
    classifier = small_classifier()
    images = torch.rand(3, *SHAPE)
    logits, maps = StagedClassifier(classifier, ("maps.9", "maps.2"))(images)
    standardised = (images - classifier.mean) / classifier.std
    network = classifier.network.maps
    assert torch.equal(logits, classifier(images))
    assert torch.equal(maps[0], network(standardised))
    assert torch.equal(maps[1], network[:3](standardised))
    assert not any(module._forward_hooks for module in classifier.modules())


def test_outputs_are_logits_features_and_maps() -> None:
    classifier = small_classifier()
    staged = StagedClassifier(classifier, ("maps.2",))
    images = torch.rand(3, *SHAPE, requires_grad=True)
    outputs, (_, maps) = staged.outputs(images), staged(images)
    # For the denoiser learns through them.
    assert outputs.maps[0].requires_grad
    logits, features = classifier.logits_and_features(images)
    assert torch.equal(outputs.logits, logits)
    assert torch.equal(outputs.features, features)
    assert torch.equal(outputs.maps[0], maps[0])
    first, last = outputs.split([1, 2])
    assert torch.equal(torch.cat([first.maps[0], last.maps[0]]), maps[0])
    assert torch.equal(torch.cat([first.logits, last.logits]), logits)


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_copies_keep_maps_of_their_own(how: str) -> None:
    staged = StagedClassifier(small_classifier(), ("maps.2",))
    copied = copy.deepcopy(staged) if how == "copied" else pickle.loads(pickle.dumps(staged))
    with torch.no_grad():
        staged.classifier.network.maps[0].weight.zero_()
    images = torch.rand(2, *SHAPE)
    fresh = StagedClassifier(small_classifier(), ("maps.2",))
    assert torch.equal(copied(images)[1][0], fresh(images)[1][0])
    assert not torch.equal(staged(images)[1][0], fresh(images)[1][0])


def test_threads_see_their_own_maps() -> None:
    staged = StagedClassifier(small_classifier(), ("maps.2", "maps.9"))
    batches = [torch.rand(4, *SHAPE) for _ in range(40)]
    expected = [[maps.clone() for maps in staged(batch)[1]] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = [maps for _, maps in pool.map(staged, batches)]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("stage", ["nope", ""])
def test_a_module_that_is_not_there_is_refused(stage: str) -> None:
    with pytest.raises(InputError, match=r"small_cnn has no module .*; it has maps, fc"):
        StagedClassifier(small_classifier(), (stage,))


@cases("stage", ["twice", "pair", "unused", "fc"])
def test_a_module_that_gives_no_map_is_refused(stage: str) -> None:
    staged = StagedClassifier(wrapped(Odd()), (stage,))
    with pytest.raises(InputError, match=f"stages: {stage} gives no .* are body.halved"):
        staged.channels((3, 16, 16))


def test_it_stays_in_eval_mode() -> None:
    staged = StagedClassifier(small_classifier(), ("maps.2",)).train()
    images = torch.rand(4, *SHAPE)
    before = {name: value.clone() for name, value in staged.state_dict().items()}
    F.cross_entropy(staged(images)[0], torch.zeros(4, dtype=torch.int64))
    assert all(torch.equal(value, before[name]) for name, value in staged.state_dict().items())
