"""Programs of torch.export: the same function as the network, its features, and hostile files."""

import copy
import io
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.program import ExportedNetwork
from decrop.cli.main import run
from decrop.networks.identity import network_identity
from decrop.networks.registry import build_classifier_network
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, SamplingTask
from tests.cases import cases
from tests.decrop.classifiers.exported import (
    compressed,
    model_changed,
    program_of,
    rewritten,
    two_faced,
)
from tests.decrop.classifiers.factories import make
from tests.decrop.tiny import CPU, random_images
from tests.refusals import one_line

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


def test_programs_with_equal_weights_are_not_the_same_network(program: bytes) -> None:
    other = make()
    assert isinstance(other, nn.Sequential)
    other[2] = nn.GELU()
    programs = [program, program, program_of(other.eval())]
    one, same, different = (network_identity(classifier(network(each))) for each in programs)
    assert one == same != different


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


class AlwaysDropping(nn.Module):
    """Drops in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(nn.functional.dropout(images.flatten(1), 0.3))
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
    return one_line(network, program, feature_layer)


def test_programs_that_cannot_be_certified_are_refused(program: bytes) -> None:
    assert "batches of exactly 3" in refusal(program_of(batch=3))
    training = refusal(program_of(make().train()))
    assert "in training mode" in training and "network.eval()" in training
    assert "exported in training mode" in refusal(program_of(AlwaysDropping().eval()))
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


def armed(path: Path) -> bytes:
    """Return a pickle that makes a file."""
    file = io.BytesIO()
    torch.save((Armed(path),), file)
    return file.getvalue()


def pickled(config: bytes) -> bytes:
    return config.replace(b'"use_pickle": false', b'"use_pickle": true ')


WEIGHTS = "data/weights/model_weights_config.json"


def test_pickles_are_refused_unread(program: bytes, tmp_path: Path) -> None:
    pickle_ = armed(tmp_path / "executed")
    assert f"holds a pickle in {WEIGHTS}" in refusal(
        rewritten(program, {WEIGHTS: pickled, "data/weights/weight_0": pickle_})
    )
    for name in ("data/constants/custom_obj_0", "data/weights/model.pt", "data/aotinductor/a.so"):
        assert f"holds {name!r}, " in refusal(rewritten(program, {name: pickle_}))
    assert refusal(pickle_)
    # Nobody needs them.
    network(rewritten(program, {"data/sample_inputs/model.pt": pickle_}))
    assert not (tmp_path / "executed").exists()


def test_an_archive_of_two_faces_runs_nothing(program: bytes, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    disguised = two_faced(
        program, {WEIGHTS: pickled, "data/weights/weight_0": armed(marker)}, program
    )
    with suppress(Exception):
        torch.export.load(io.BytesIO(disguised))
    assert marker.exists()
    marker.unlink()
    assert torch.equal(network(disguised)(IMAGES), network(program)(IMAGES))
    assert not marker.exists()


def test_code_in_the_description_never_runs(program: bytes, tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(executed)!r}).touch()"

    def sized(model: Any) -> None:
        values = model["graph_module"]["graph"]["tensor_values"]
        for value in values.values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    def guarded(model: Any) -> None:
        model["guards_code"] = [code]

    def spelled(name: str) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            renamed = json.loads(json.dumps(model).replace(json.dumps(name), json.dumps(code)))
            model.clear()
            model.update(renamed)

        return change

    expected = network(program)(IMAGES)
    for harmless in (sized, guarded, spelled("relu"), spelled("conv2d"), spelled("p_0_weight")):
        assert torch.equal(network(model_changed(program, harmless))(IMAGES), expected)
    assert "is no name of a tensor" in refusal(model_changed(program, spelled("0.weight")))
    assert not executed.exists()


def call(target: str, output: str, **inputs: Any) -> dict[str, Any]:
    """Describe a call whose result has the name `output`."""
    named = [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs.items()]
    outputs = [{"as_tensor": {"name": output}}]
    return {"target": target, "inputs": named, "outputs": outputs, "metadata": {}, "name": output}


def with_calls(program: bytes, *calls: Any, instead_of_relu: str | None = None) -> bytes:
    """Let a program make calls after its BatchNorm, and go on with the result of one."""

    def change(model: Any) -> None:
        graph = model["graph_module"]["graph"]
        for made in calls:
            name = made["outputs"][0]["as_tensor"]["name"]
            graph["tensor_values"].setdefault(name, graph["tensor_values"]["relu"])
        if instead_of_relu is not None:
            (relu,) = (node for node in graph["nodes"] if node["name"] == "relu")
            relu["inputs"][0]["arg"] = {"as_tensor": {"name": instead_of_relu}}
        position = [node["name"] for node in graph["nodes"]].index("relu")
        graph["nodes"][position:position] = calls

    return model_changed(program, change)


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def test_a_program_can_not_write_into_files(
    program: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"\x07" * 4096)
    opened = call(
        "torch.ops.aten.from_file.default",
        "file",
        filename={"as_string": str(precious)},
        shared={"as_bool": True},
        size={"as_int": 1024},
    )
    filled = call("torch.ops.aten.fill_.Scalar", "filled", self=tensor("file"), value={"as_int": 0})
    hostile = with_calls(program, opened, filled)
    path = tmp_path / "hostile.pt2"
    path.write_bytes(hostile)
    assert run(["inspect", str(path), "--dataset", "digits"]) == 2
    assert "calls 'torch.ops.aten.from_file.default'; only listed" in capsys.readouterr().err
    assert precious.read_bytes() == b"\x07" * 4096


def test_other_operators_are_refused_by_name(program: bytes) -> None:
    for target in (
        "os.system",
        "torch.load",
        "torch.ops.aten.bernoulli.p",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.relu.out",
        "torch.ops.aten.relu.__class__",
        "torch.ops.inductor.resize_storage_bytes_.default",
        "torch.ops.higher_order.cond",
        "#ext:op",
    ):
        refused = refusal(with_calls(program, call(target, "other", self=tensor("batch_norm"))))
        assert f"calls {target!r}; only listed operators" in refused


def test_a_program_may_write_into_what_it_made_alone(program: bytes) -> None:
    def doubled(name: str) -> Any:
        target = "torch.ops.aten.mul_.Scalar"
        return call(target, "doubled", self=tensor(name), other={"as_float": 2.0})

    view = call("torch.ops.aten.alias.default", "view", self=tensor("batch_norm"))
    shared = call("torch.ops.aten.alias.default", "shared", self=tensor("p_0_weight"))
    written = network(with_calls(program, view, doubled("view")))
    plain = make().eval()
    assert isinstance(plain, nn.Sequential)
    torch.testing.assert_close(written(IMAGES), plain[2:](2 * plain[:2](IMAGES)))
    for name in ("p_0_weight", "b_1_running_mean", "shared"):
        assert "writes into its weights" in refusal(with_calls(program, shared, doubled(name)))


def test_sizes_are_bounded(program: bytes) -> None:
    size = {"as_ints": [10**6, 10**6]}
    ones = call("torch.ops.aten.ones.default", "ones", size=size)
    assert "makes a tensor [1000000, 1000000] of 1 image," in refusal(with_calls(program, ones))
    some = [
        call("torch.ops.aten.ones.default", f"ones_{n}", size={"as_ints": [2**25]})
        for n in range(40)
    ]
    assert "bytes in all of 1 image," in refusal(with_calls(program, *some))
    line = call("torch.ops.aten.ones.default", "line", size={"as_ints": [2**25]})
    parts = call("torch.ops.aten.unbind.int", "parts", self=tensor("line"))
    assert "more than 10,000 parts" in refusal(with_calls(program, line, parts))
    # Inside an operator alone, and only of many images.
    crossed = call(
        "torch.ops.aten.einsum.default",
        "crossed",
        equation={"as_string": "iabc,jdef,jghk,iabc,jdef,jghk->i"},
        tensors={"as_tensors": [{"name": "batch_norm"}] * 6},
    )
    assert "of 4,096 images" in refusal(with_calls(program, crossed))

    def expanded(config: bytes) -> bytes:
        described = json.loads(config)
        meta = next(iter(described["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = ([{"as_int": n}] * 2 for n in (10**6, 0))
        return json.dumps(described).encode()

    assert "a tensor [1000000, 1000000] has" in refusal(rewritten(program, {WEIGHTS: expanded}))

    squared = [
        {
            "target": "_operator.mul",
            "inputs": [{"name": "", "arg": {"as_sym_int": {"as_name": f"size_{n}"}}, "kind": 1}]
            * 2,
            "outputs": [{"as_sym_int": {"as_name": f"size_{n + 1}"}}],
            "name": f"size_{n + 1}",
        }
        for n in range(40)
    ]
    first = {
        "target": "torch.ops.aten.sym_size.int",
        "inputs": [
            {"name": "self", "arg": tensor("input"), "kind": 1},
            {"name": "dim", "arg": {"as_int": 0}, "kind": 1},
        ],
        "outputs": [{"as_sym_int": {"as_name": "size_0"}}],
        "name": "size_0",
    }

    def grown(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0:0] = [first, *squared]

    assert "a size is a product of too many" in refusal(model_changed(program, grown))
    assert "is compressed" in refusal(compressed(program))


@cases("content", [b"", bytes(100), b"PK\x05\x06" + bytes(18), b"\x80\x02."])
def test_files_that_are_no_programs_are_refused(content: bytes) -> None:
    assert "is not a program of torch.export" in refusal(content)


def test_damaged_programs_are_refused(program: bytes) -> None:
    assert refusal(program[: len(program) // 2])
    for content in (b"{", b"{}", b"[" * 100_000):
        assert "is not a program" in refusal(rewritten(program, {"models/model.json": content}))
