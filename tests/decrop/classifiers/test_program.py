"""Programs of torch.export: the same function as the network, its features, and hostile files."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.program import ExportedNetwork
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tests.decrop.classifiers.exported import model_changed, program_of, rewritten
from tests.decrop.classifiers.factories import make
from tests.decrop.tiny import CPU, random_images

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def program() -> bytes:
    return program_of()


def network(program: bytes, feature_layer: str | None = None) -> ExportedNetwork:
    return ExportedNetwork(program, feature_layer, blamed="it")


def classifier(module: nn.Module, layer: str | None = None, channels: int = 1) -> Classifier:
    mean, std = (0.4,) * channels, (0.3,) * channels
    return Classifier(
        module, architecture="x", mean=mean, std=std, class_count=4, feature_layer=layer
    )


IMAGES = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_logits_features_and_gradients_are_those_of_the_network(program: bytes) -> None:
    for layer in (None, "4", "0", "1"):
        answers = []
        for module in (make(), network(program, layer)):
            images = IMAGES.clone().requires_grad_()
            logits, features = classifier(module, layer).logits_and_features(images)
            (logits.square().sum() + features[:, 0].sum()).backward()
            answers.append((logits, features, images.grad))
        for expected, found in zip(*answers, strict=True):
            torch.testing.assert_close(found, expected)


def test_layer_and_shape_are_read_from_the_program(program: bytes) -> None:
    found = network(program)
    assert found.image_shape == (1, 6, 6)
    assert found.feature_layer == "4"
    assert classifier(found).feature_layer_and_count(IMAGES) == ("4", 96)


def test_features_before_a_last_convolution_are_averaged() -> None:
    torch.manual_seed(0)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    found = classifier(network(program_of(convolutional))).logits_and_features(IMAGES)
    expected = classifier(convolutional).logits_and_features(IMAGES)
    torch.testing.assert_close(found[1], expected[1])


def test_a_registered_network_survives_its_export() -> None:
    torch.manual_seed(0)
    resnet = build_classifier_network("cifar_resnet20", image_channels=3, class_count=4).eval()
    images = torch.rand(3, 3, 16, 16)
    exported = network(program_of(resnet, (3, 16, 16)))
    found = classifier(exported, channels=3).logits_and_features(images)
    expected = classifier(resnet, channels=3).logits_and_features(images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_certification_counts_as_with_the_network(program: bytes, precision: Any) -> None:
    counts = []
    for module in (make(), network(program)):
        task = SamplingTask(
            network=nn.Sequential(nn.Identity(), classifier(module)),
            images=random_images(2),
            image_ids=torch.arange(2),
            class_count=4,
            sigma=0.5,
            seed=0,
            chunk_size=50,
            chunks_per_batch=2,
            precision=precision,
        )
        requests = [CountRequest(image, ESTIMATION, 0, 50) for image in range(2)]
        counts.append(LocalSampler(task, CPU).class_counts(requests))
    assert counts[0].max() < 50
    # Last bits differ, for BatchNorm is folded in one alone.
    assert abs(counts[0] - counts[1]).sum() <= 2 * (1 if precision == "fp32" else 8)


def test_copies_and_pickles_answer_alike(program: bytes) -> None:
    original = network(program, "1")
    copied, unpickled = copy.deepcopy(original), pickle.loads(pickle.dumps(original))
    copied.double()
    assert original(IMAGES).dtype == torch.float32
    torch.testing.assert_close(copied(IMAGES.double()).float(), original(IMAGES))
    assert torch.equal(unpickled(IMAGES), original(IMAGES))
    assert unpickled.feature_layer == "1"
    hashes = {classifier(module, "1").content_hash() for module in (original, unpickled)}
    assert len(hashes) == 1
    assert original.eval() is original and original.train() is original


class MakesTensors(nn.Module):
    """Makes a tensor on a device that the export writes down, and flattens by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 4)

    def forward(self, images: Tensor) -> Tensor:
        shift = torch.ones(36, device=images.device, dtype=torch.float32)
        logits: Tensor = self.layer(images.flatten(1).float() + shift)
        return logits


def test_tensors_made_inside_follow_the_device() -> None:
    found = network(program_of(MakesTensors().eval())).to("meta")
    assert found(IMAGES.to("meta")).device.type == "meta"


def test_images_may_be_in_channels_last() -> None:
    torch.manual_seed(0)
    alexnet = build_classifier_network("half_alexnet", image_channels=3, class_count=4).eval()
    images = torch.rand(2, 3, 16, 16)
    found = network(program_of(alexnet, (3, 16, 16))).to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        found(images.to(memory_format=torch.channels_last)), alexnet(images), atol=1e-5, rtol=1e-4
    )


def refusal(program: bytes, feature_layer: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        network(program, feature_layer)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_programs_that_cannot_be_certified_are_refused(program: bytes) -> None:
    assert "batches of exactly 3" in refusal(program_of(batch=3))
    training = refusal(program_of(make().train()))
    assert "exported in training mode" in training and "network.eval()" in training
    assert "no layer '5'; candidates are" in refusal(program, "5")

    class Two(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images + 1, images

    assert "1 inputs and 2 outputs" in refusal(program_of(Two()))
    assert "no linear layer or convolution" in refusal(program_of(nn.ReLU()))


class Armed:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_refused_unread(program: bytes, tmp_path: Path) -> None:
    armed = io.BytesIO()
    torch.save((Armed(tmp_path / "executed"),), armed)
    samples = "data/sample_inputs/model.pt"
    assert f"holds a pickle in {samples}" in refusal(
        rewritten(program, {samples: armed.getvalue()})
    )
    weights = "data/weights/model_weights_config.json"
    pickled = rewritten(
        program,
        {
            weights: lambda config: config.replace(b'"use_pickle": false', b'"use_pickle": true'),
            "data/weights/weight_0": armed.getvalue(),
        },
    )
    assert f"holds a pickle in {weights}" in refusal(pickled)
    for name in ("data/constants/custom_obj_0", "data/weights/model.pt", "data/aotinductor/a.so"):
        assert f"holds {name}, " in refusal(rewritten(program, {name: armed.getvalue()}))
    assert refusal(armed.getvalue())
    assert not (tmp_path / "executed").exists()


def test_code_in_the_description_is_refused(program: bytes, tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(executed)!r}).touch()"

    def sized(model: Any) -> None:
        values = model["graph_module"]["graph"]["tensor_values"]
        for value in values.values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    assert "which is no plain expression" in refusal(model_changed(program, sized))

    def called(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"

    assert "calls os.system; only ATen operators" in refusal(model_changed(program, called))

    def guarded(model: Any) -> None:
        model["guards_code"] = [code]

    images = classifier(network(model_changed(program, guarded)))(IMAGES)
    assert images.shape == (5, 4)
    assert not executed.exists()


@pytest.mark.parametrize("content", [b"", bytes(100), b"PK\x05\x06" + bytes(18), b"\x80\x02."])
def test_files_that_are_no_programs_are_refused(content: bytes) -> None:
    assert "is not a program of torch.export" in refusal(content)


def test_damaged_programs_are_refused(program: bytes) -> None:
    assert refusal(program[: len(program) // 2])
    assert "is not a program" in refusal(rewritten(program, {"models/model.json": b"{"}))
    assert "cannot be read by PyTorch" in refusal(rewritten(program, {"models/model.json": b"{}"}))
    twice = refusal(rewritten(program, {"Models/model.json": b"{}"}))
    assert "is there twice" in twice
