"""One contract for every registered network."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from decrop.classifiers.classifier import Classifier
from decrop.config import (
    ClassifierArchitecture,
    DenoiserSettings,
    TrialConfig,
)
from decrop.config.classifier_source import CLASSIFIERS
from decrop.config.denoiser import DENOISERS
from decrop.documents import set_dotted, trial_config
from decrop.errors import InputError
from decrop.networks.registry import (
    build_classifier_network,
    build_denoiser,
)
from decrop.seeds import seeded_globals, torch_generator
from tests.cases import cases
from tests.decrop.tiny import same

pytestmark = pytest.mark.usefixtures("one_thread")

# Which begin as the identity; the others predict the image, as published, and cannot.
RESIDUAL = ["dncnn", "dncnn_wide", "memnet", "unet"]
NETWORKS = [name for name in DENOISERS if name != "none"]

SIZES = [(32, 32), (84, 84), (17, 30)]
# Of colour images and ten classes; METHODS, MetaOptNet's 12.4 M and the CIFAR ResNet-18's 11.2 M.
CLASSIFIER_PARAMETERS: dict[ClassifierArchitecture, int] = {
    "small_cnn": 57_130,
    "cifar_resnet20": 272_474,
    "cifar_resnet56": 855_770,
    "cifar_resnet110": 1_730_714,
    "resnet12": 12_430_730,
    "resnet18": 11_173_962,
    "alexnet": 1_659_178,
    "half_alexnet": 417_434,
}
DENOISER_PARAMETERS: dict[str, int] = {
    "dncnn": 558_400,
    "dncnn_wide": 2_222_720,
    "memnet": 1_436_678,
    "unet": 4_607_360,
    "ffdnet": 852_108,
    "drunet": 32_640_960,
}


def classifier_network(
    architecture: ClassifierArchitecture,
    *,
    image_channels: int = 3,
    class_count: int = 10,
    seed: int = 0,
) -> nn.Module:
    with seeded_globals(seed, "test classifier"):
        return build_classifier_network(
            architecture, image_channels=image_channels, class_count=class_count
        )


def denoiser_network(
    architecture: str, *, image_channels: int = 3, seed: int = 0, **settings: Any
) -> nn.Module:
    """Build a denoiser, small unless settings say otherwise."""
    settings = {"depth": 5, "channels": 8} | settings
    with seeded_globals(seed, "test denoiser"):
        return build_denoiser(
            DenoiserSettings(source=architecture, **settings), image_channels=image_channels
        )


def trained_somewhat(network: nn.Module, seed: int = 0) -> nn.Module:
    """Move every zero weight and all statistics away from their initial values."""
    generator = torch_generator(seed, "test training")
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_mean.uniform_(-0.2, 0.2, generator=generator)
                layer.running_var.uniform_(0.8, 1.2, generator=generator)
    return network


def random_images(size: tuple[int, int], *, image_channels: int = 3, count: int = 2) -> Tensor:
    generator = torch_generator(1, "test images")
    return torch.rand(count, image_channels, *size, generator=generator)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def last_linear(network: nn.Module) -> nn.Linear:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("denoiser.source", list(DENOISERS)),
        ("classifier.source", ["auto", *CLASSIFIERS]),
    ],
)
def test_wrong_name_lists_the_valid_ones(path: str, names: list[str]) -> None:
    with pytest.raises(InputError, match=re.escape(f"{path} = 'resnet'")) as error:
        trial_config(set_dotted({}, path, "resnet"), source="test")
    assert all(f"'{name}'" in str(error.value) for name in names)


@cases("architecture", CLASSIFIERS)
def test_classifier_has_its_parameters(architecture: ClassifierArchitecture) -> None:
    with torch.device("meta"):
        network = classifier_network(architecture)
    assert parameter_count(network) == CLASSIFIER_PARAMETERS[architecture]


@cases("architecture", CLASSIFIERS)
def test_gradient_of_a_classifier_reaches_the_pixels(architecture: ClassifierArchitecture) -> None:
    # Attack and denoiser need it.
    images = random_images((17, 20)).requires_grad_()
    logits = classifier_network(architecture).eval()(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@cases("architecture", CLASSIFIERS)
def test_classifier_takes_images_down_to_its_smallest(architecture: ClassifierArchitecture) -> None:
    network = classifier_network(architecture, image_channels=1).eval()
    smallest = CLASSIFIERS[architecture].smallest
    with torch.no_grad():
        assert network(random_images((smallest, smallest), image_channels=1)).isfinite().all()
        if smallest > 1:
            with pytest.raises(RuntimeError):
                network(random_images((smallest - 1, smallest - 1), image_channels=1))


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_classifier_is_determined_by_its_seed_and_survives_a_file(
    architecture: ClassifierArchitecture, tmp_path: Path
) -> None:
    network = trained_somewhat(classifier_network(architecture)).eval()
    other = classifier_network(architecture, seed=1).eval()
    again = trained_somewhat(classifier_network(architecture))
    assert same(network.state_dict(), again.state_dict())
    assert not torch.equal(last_linear(network).weight, last_linear(other).weight)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    images = random_images((32, 32))
    with torch.no_grad():
        assert torch.equal(other(images), network(images))


@pytest.mark.parametrize(("image_channels", "class_count"), [(1, 10), (3, 10), (3, 100)])
def test_no_two_classifiers_have_the_same_keys_and_shapes(
    image_channels: int, class_count: int
) -> None:
    shapes = {}
    for architecture in CLASSIFIERS:
        with torch.device("meta"):
            network = classifier_network(
                architecture, image_channels=image_channels, class_count=class_count
            )
        shapes[architecture] = frozenset(
            (name, tensor.shape)
            for name, tensor in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        )
    assert len(set(shapes.values())) == len(CLASSIFIERS)


@cases("architecture", NETWORKS)
def test_denoiser_has_its_parameters(architecture: str) -> None:
    settings = DenoiserSettings(source=architecture)
    network = build_denoiser(settings, image_channels=3)
    assert parameter_count(network) == DENOISER_PARAMETERS[architecture]
    grey = build_denoiser(settings, image_channels=1)
    assert parameter_count(grey) < parameter_count(network)


def operations(architecture: str, **settings: Any) -> int:
    """Count the operations of one 32x32 colour image."""
    network = denoiser_network(architecture, **settings).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(random_images((32, 32), count=1))
    return int(counter.get_total_flops())


@cases(
    ("architecture", "expected"),
    [
        ("dncnn", 1.0),
        ("dncnn_wide", 3.99),
        ("memnet", 2.57),
        ("unet", 0.99),
        ("ffdnet", 0.38),
        ("drunet", 3.806),
    ],
)
def test_operations_relative_to_the_papers_dncnn(architecture: str, expected: float) -> None:
    paper = {"depth": 17, "channels": 64}
    ratio = operations(architecture, **paper) / operations("dncnn", **paper)
    print(f"{architecture}: {ratio:.3f} times the operations of DnCNN-17")
    assert ratio == pytest.approx(expected, abs=0.005)


def convolutions(network: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in network.modules())


@cases("architecture", NETWORKS)
def test_settings_of_a_denoiser_mean_what_their_help_says(architecture: str) -> None:
    fields = type(TrialConfig().denoiser).model_fields
    takes_depth = architecture in (fields["depth"].description or "").partition("all others")[0]
    shallow, deep = (convolutions(denoiser_network(architecture, depth=d)) for d in (9, 17))
    assert (shallow, deep) == (9, 17) if takes_depth else shallow == deep
    narrow, broad = (operations(architecture, depth=17, channels=channels) for channels in (16, 32))
    if f"{architecture} and drunet have" in (fields["channels"].description or "") or (
        architecture == "drunet"
    ):
        assert narrow == broad
    else:
        assert 3.5 * narrow < broad < 4 * narrow


@pytest.mark.parametrize("architecture", RESIDUAL)
@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_untrained_denoiser_is_the_identity(
    architecture: str, image_channels: int, training: bool
) -> None:
    network = denoiser_network(architecture, image_channels=image_channels).train(training)
    for size in [*SIZES, (5, 12), (1, 1)]:
        images = random_images(size, image_channels=image_channels)
        assert torch.equal(network(images), images)


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_denoiser_maps_images_to_images(
    architecture: str, image_channels: int, size: tuple[int, int]
) -> None:
    network = trained_somewhat(denoiser_network(architecture, image_channels=image_channels)).eval()
    images = random_images(size, image_channels=image_channels)
    before = images.clone()
    with torch.no_grad():
        denoised = network(images)
        assert torch.equal(images, before)
        assert denoised.shape == images.shape
        assert denoised.dtype == torch.float32
        assert denoised.isfinite().all()
        assert (denoised - images).abs().max() > 1e-3
        assert torch.equal(network(images), denoised)
        torch.testing.assert_close(network(images[:1]), denoised[:1], atol=1e-5, rtol=1e-4)


@cases("architecture", NETWORKS)
def test_gradient_reaches_every_denoiser_weight_and_none_of_the_classifier(
    architecture: str,
) -> None:
    denoiser = trained_somewhat(denoiser_network(architecture)).train()
    classifier = Classifier(
        classifier_network("small_cnn"),
        architecture="small_cnn",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        class_count=10,
    )
    logits, features = classifier.logits_and_features(denoiser(random_images((17, 30), count=4)))
    (F.cross_entropy(logits, torch.arange(4)) + features.sum()).backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize("architecture", NETWORKS)
def test_denoiser_is_determined_by_its_seed_and_survives_a_file(
    architecture: str, tmp_path: Path
) -> None:
    network = trained_somewhat(denoiser_network(architecture)).eval()
    again = trained_somewhat(denoiser_network(architecture))
    assert same(network.state_dict(), again.state_dict())
    other = denoiser_network(architecture, seed=1).eval()
    assert not same(other.state_dict(), denoiser_network(architecture).state_dict())
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    images = random_images((17, 30))
    with torch.no_grad():
        assert torch.equal(other(images), network(images))
