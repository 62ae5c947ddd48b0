"""The protected classifier: frozen, standardised first, its features those of its last layer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.classifier import Classifier
from decrop.config import ClassifierArchitecture
from decrop.config.classifier_source import CLASSIFIERS
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from tests.cases import cases
from tests.decrop.tiny import random_images

pytestmark = pytest.mark.usefixtures("one_thread")


class TwoHeads(nn.Module):
    """A linear layer before the last, and BatchNorm and dropout that training would change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.5)
        )
        self.head = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.body(images)))
        return logits


def two_heads(
    mean: tuple[float, ...] = (0.1, 0.6), std: tuple[float, ...] = (0.5, 0.2)
) -> Classifier:
    torch.manual_seed(0)
    return Classifier(TwoHeads(), architecture="two_heads", mean=mean, std=std, class_count=4)


IMAGES = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_standardisation_comes_first() -> None:
    classifier = two_heads()
    standardised = IMAGES.clone()
    standardised[:, 0] = (standardised[:, 0] - 0.1) / 0.5
    standardised[:, 1] = (standardised[:, 1] - 0.6) / 0.2
    torch.testing.assert_close(classifier(IMAGES), classifier.network(standardised))


def test_features_are_the_normalised_input_of_the_last_linear_layer() -> None:
    classifier = two_heads()
    logits, features = classifier.logits_and_features(IMAGES)
    assert torch.equal(logits, classifier(IMAGES))
    assert features.shape == (6, classifier.feature_count(IMAGES)) == (6, 5)
    network = classifier.network
    assert isinstance(network, TwoHeads)
    mean, std = torch.tensor([0.1, 0.6])[:, None, None], torch.tensor([0.5, 0.2])[:, None, None]
    raw = F.relu(network.body((IMAGES - mean) / std))
    torch.testing.assert_close(features, raw / raw.square().sum(1, keepdim=True).sqrt())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    # No hook is left.
    assert not any(module._forward_pre_hooks for module in classifier.modules())


# Of the last layer, after pooling where there is any.
FEATURE_COUNTS: dict[ClassifierArchitecture, int] = {
    "small_cnn": 64,
    "cifar_resnet20": 64,
    "cifar_resnet56": 64,
    "cifar_resnet110": 64,
    "resnet12": 640,
    "resnet18": 512,
    "alexnet": 256,
    "half_alexnet": 128,
}


@pytest.mark.parametrize("architecture", CLASSIFIERS)
@pytest.mark.parametrize("size", [16, 21])
def test_features_of_every_architecture_explain_the_logits(
    architecture: ClassifierArchitecture, size: int
) -> None:
    torch.manual_seed(0)
    network = build_classifier_network(architecture, image_channels=1, class_count=3)
    classifier = Classifier(
        network, architecture=architecture, mean=(0.5,), std=(0.5,), class_count=3
    )
    images = random_images(4, size=size).float() / 255
    logits, features = classifier.logits_and_features(images)
    assert features.shape == (4, FEATURE_COUNTS[architecture])
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    # Undo the normalisation: logits minus bias are proportional to weight times features.
    rest = logits - last.bias
    torch.testing.assert_close(
        F.normalize(features @ last.weight.T), F.normalize(rest), atol=1e-4, rtol=1e-3
    )


def test_gradient_reaches_the_images_and_not_the_weights() -> None:
    classifier = two_heads()
    images = IMAGES.clone().requires_grad_()
    logits, features = classifier.logits_and_features(images)
    (logits.sum() + features.sum()).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_classifier_stays_in_eval_mode() -> None:
    classifier = two_heads()
    before = classifier(IMAGES)
    nn.Sequential(nn.Identity(), classifier).train()
    assert classifier.train() is classifier
    assert not any(module.training for module in classifier.modules())
    assert torch.equal(classifier(IMAGES), before)


def test_content_hash_follows_weights_and_standardisation() -> None:
    reference = two_heads().content_hash()
    assert two_heads().content_hash() == reference
    changed = two_heads()
    with torch.no_grad():
        weight = changed.network.get_parameter("head.weight")
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    buffer = two_heads()
    buffer.network.get_buffer("body.1.running_mean")[0] = 0.5
    renamed = two_heads()
    renamed.architecture = "other"
    others = [changed, buffer, renamed, two_heads(mean=(0.1, 0.7)), two_heads(std=(0.5, 0.3))]
    hashes = {other.content_hash() for other in others}
    assert len(hashes | {reference}) == len(others) + 1


def conv_head(pooled: bool) -> Classifier:
    """A fully convolutional network: its last layer gives a map of each class."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if pooled else []
    network = nn.Sequential(*body, *pool, nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(network, architecture="conv", mean=(0.0,), std=(1.0,), class_count=3)


def test_features_before_a_last_convolution_are_averaged_over_positions() -> None:
    images = torch.rand(4, 1, 7, 9)
    spread, pooled = conv_head(pooled=False), conv_head(pooled=True)
    assert spread.feature_layer_and_count(images) == ("2", 6)
    assert pooled.feature_layer_and_count(images) == ("3", 6)
    torch.testing.assert_close(
        spread.logits_and_features(images)[1], pooled.logits_and_features(images)[1]
    )


class Tokens(nn.Module):
    """A head that is registered first, runs last, and takes [batch, tokens, features]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.embed = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.embed(images.flatten(1, 2)))
        logits: Tensor = self.head(input=tokens).mean(1)
        return logits


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    images = torch.rand(2, 1, 6, 4)
    network = Tokens()
    for name, layer in ((None, "head"), ("norm", "norm"), ("embed", "embed")):
        classifier = Classifier(
            network, architecture="x", mean=(0.0,), std=(1.0,), class_count=3, feature_layer=name
        )
        count = 4 if layer == "embed" else 5
        assert classifier.feature_layer_and_count(images) == (layer, count)
    tokens = network.norm(network.embed(images.flatten(1, 2)))
    found = Classifier(network, architecture="x", mean=(0.0,), std=(1.0,), class_count=3)
    expected = F.normalize(tokens.mean(1), dim=1)
    torch.testing.assert_close(found.logits_and_features(images)[1], expected)


@cases(
    ("network", "layer", "said"),
    [
        (Tokens(), "heads", "no layer 'heads'; candidates are head"),
        (Tokens(), "unused", "unused does not run"),
        (nn.Sequential(nn.Flatten()), None, "no linear layer or convolution runs"),
        (nn.Sequential(nn.Flatten(0), nn.Tanh()), "1", "the input of 1 is"),
    ],
)
def test_features_that_cannot_be_read_are_refused(
    network: nn.Module, layer: str | None, said: str
) -> None:
    classifier = Classifier(
        network, architecture="x", mean=(0.0,), std=(1.0,), class_count=3, feature_layer=layer
    )
    with pytest.raises(InputError) as error:
        classifier.logits_and_features(torch.rand(2, 1, 6, 4))
    assert str(error.value).startswith("classifier.feature_layer: ")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not any(module._forward_pre_hooks for module in classifier.modules())


def test_channel_order_and_size_come_after_standardisation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    classifier = Classifier(
        network,
        architecture="x",
        mean=mean,
        std=std,
        class_count=2,
        channel_order="bgr",
        input_size=(5, 7),
    )
    images = torch.rand(2, 3, 12, 10)
    planes = [(images[:, [c]] - mean[c]) / std[c] for c in (2, 1, 0)]
    resized = F.interpolate(torch.cat(planes, 1), (5, 7), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier(images), network(resized))
    half = classifier.to(torch.bfloat16)(images.bfloat16())
    assert half.dtype == torch.bfloat16


def test_content_hash_follows_what_is_not_the_default() -> None:
    def hashed(**details: Any) -> str:
        torch.manual_seed(0)
        return Classifier(
            TwoHeads(), architecture="x", mean=(0.1,), std=(0.5,), class_count=4, **details
        ).content_hash()

    defaults = {"arguments": {}, "input_size": None, "channel_order": "rgb", "feature_layer": None}
    assert hashed(**defaults) == hashed()
    others: list[dict[str, Any]] = [
        {"arguments": {"depth": 3}},
        {"input_size": (8, 9)},
        {"input_size": (9, 8)},
        {"channel_order": "bgr"},
        {"feature_layer": "head"},
    ]
    assert len({hashed(), *(hashed(**other) for other in others)}) == len(others) + 1


def test_content_hash_of_earlier_versions_is_kept() -> None:
    # What a version without input size, channel order and feature layer gave.
    network = nn.Linear(2, 2, bias=False)
    network.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    classifier = Classifier(network, architecture="x", mean=(0.5,), std=(0.25,), class_count=2)
    assert classifier.content_hash() == (
        "4b5685db67ceafdcb685718be25a2a28d4424f2b285abe1016cb8ca26b7692e9"
    )
