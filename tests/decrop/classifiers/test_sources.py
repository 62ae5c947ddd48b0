"""Every form of classifier.source gives the network it names, or one line that says why not."""

import re
import sys
import types
import urllib.error
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import decrop.classifiers.sources
from decrop.classifiers.load import untrained_classifier
from decrop.classifiers.sources import Network
from decrop.config import ClassifierSettings
from decrop.data.datasets import Dataset
from tests.cases import cases
from tests.decrop.classifiers.exported import program_of
from tests.decrop.classifiers.factories import make
from tests.decrop.tiny import random_images, tiny_dataset
from tests.refusals import one_line

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = "tests.decrop.classifiers.factories"


def data(size: int = 6, channels: int = 1, classes: int = 4) -> Dataset:
    images = random_images(8, size=size).expand(-1, channels, -1, -1)
    return tiny_dataset(
        torch.arange(8) % classes, class_count=classes, images=images, channels=channels
    )


def settings(source: str, **given: Any) -> ClassifierSettings:
    return ClassifierSettings.model_validate({"source": source, **given})


def refusal(given: ClassifierSettings, dataset: Dataset | None = None) -> str:
    return one_line(untrained_classifier, given, dataset or data())


def test_a_function_is_called_with_its_arguments() -> None:
    given = settings(f"{HERE}:make", arguments={"width": 3})
    classifier = untrained_classifier(given, data())
    images = torch.rand(2, 1, 6, 6)
    expected = make(width=3).eval()((images - 0.5) / 0.25)
    torch.testing.assert_close(classifier(images), expected)
    assert classifier.architecture == f"{HERE}:make"
    assert classifier.arguments == {"width": 3}
    assert not classifier.network.training


@pytest.mark.parametrize("form", ["InMapping", "InObject"])
def test_logits_are_taken_out_of_what_is_beside_them(form: str) -> None:
    classifier = untrained_classifier(settings(f"{HERE}:{form}"), data())
    images = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(classifier(images), make().eval()((images - 0.5) / 0.25))
    _, features = classifier.logits_and_features(images)
    assert len(features) == 2


def test_weights_are_loaded_into_what_a_function_returns(tmp_path: Path) -> None:
    state = {name: tensor + 1 for name, tensor in make().state_dict().items()}
    save_file(state, tmp_path / "w")
    given = settings(f"{HERE}:make", weights=str(tmp_path / "w"))
    found = untrained_classifier(given, data()).network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    other = settings(f"{HERE}:make", weights=str(tmp_path / "w"), arguments={"width": 5})
    assert "does not fit tests.decrop" in refusal(other)


@cases(
    ("source", "arguments", "said"),
    [
        ("nowhere_at_all:make", {}, "nowhere_at_all cannot be imported (ModuleNotFoundError"),
        ("tests.decrop.classifiers.raises:make", {}, "cannot be imported"),
        (f"{HERE}:made", {}, f"{HERE} has no made"),
        (f"{HERE}:NOT_CALLABLE", {}, "is a int, not a function"),
        (f"{HERE}:no_module", {}, "returns a str, not a torch.nn.Module"),
        (f"{HERE}:failing", {}, "raised RuntimeError: no licence for this"),
        (f"{HERE}:make", {"depth": 3}, "make(depth=3) raised TypeError"),
        (f"{HERE}:make", {"classes": 5}, "gives [2, 5] for images [2, 1, 6, 6]; it must give"),
        (f"{HERE}:make", {"size": 9}, "fails on images [2, 1, 6, 6] with RuntimeError"),
        (f"{HERE}:Pair", {}, "gives tuple for images"),
        (f"{HERE}:Unnamed", {}, "gives dict for images"),
        (f"{HERE}:Flat", {}, "gives [6] for images"),
        (f"{HERE}:OnBatch", {}, "other logits when another one stands beside it"),
        (f"{HERE}:NotFinite", {}, "logits that are not finite"),
    ],
)
def test_functions_that_cannot_be_used_are_refused(
    source: str, arguments: dict[str, Any], said: str
) -> None:
    message = refusal(settings(source, arguments=arguments))
    assert message.startswith("classifier.source: ")
    assert said in message


def test_an_import_that_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_models.py").write_text("raise SystemError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "(SystemError: two lines)" in refusal(settings("broken_models:make"))


def test_an_unknown_feature_layer_lists_candidates() -> None:
    message = refusal(settings(f"{HERE}:make", feature_layer="fc"))
    assert message.startswith("classifier.feature_layer: the network has no layer 'fc'")
    assert "candidates are 0, 1, 2, 3, 4" in message


def test_torchvision_models_take_weights(tmp_path: Path) -> None:
    from decrop._torchvision import torchvision

    torch.manual_seed(0)
    expected = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=4).eval()
    save_file(expected.state_dict(), tmp_path / "w")
    given = settings("torchvision/squeezenet1_1", weights=str(tmp_path / "w"), input_size=[32, 40])
    classifier = untrained_classifier(given, data(channels=3))
    images = torch.rand(2, 3, 6, 6)
    # Its last layer is a convolution on 512 maps, named in the model.
    assert classifier.feature_layer_and_count(images) == ("classifier.1", 512)
    resized = nn.functional.interpolate(
        (images - 0.5) / 0.25, (32, 40), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(classifier(images), expected(resized))


@cases(
    ("given", "said"),
    [
        ({"source": "torchvision/resnet18"}, "classifier.weights: torchvision/resnet18 needs"),
        ({"source": "torchvision/resnet", "weights": "w"}, "is not a model there; nearest are"),
        (
            {"source": "torchvision/resnet18", "weights": "w", "arguments": {"weights": "DEFAULT"}},
            "classifier.arguments: weights would download",
        ),
        (
            {"source": "torchvision/resnet18", "weights": "w", "arguments": {"depth": 1}},
            "raised TypeError",
        ),
        (
            {"source": "torchvision/resnet50", "weights": "nowhere"},
            "nowhere does not exist as a file, .* of that name; there are IMAGENET1K_V1, ",
        ),
        (
            {"source": "torchvision/resnet18", "weights": "IMAGENET1K_V1"},
            "IMAGENET1K_V1 of torchvision/resnet18 are for 1000 classes; .* has 4",
        ),
    ],
)
def test_torchvision_models_that_cannot_be_used_are_refused(
    given: dict[str, Any], said: str
) -> None:
    assert re.search(said, refusal(ClassifierSettings.model_validate(given), data(channels=3)))


def small_squeezenet(monkeypatch: pytest.MonkeyPatch, fetched: Any) -> ClassifierSettings:
    """Let torchvision publish weights of four classes, which `fetched` gives."""
    from decrop._torchvision import torchvision

    published = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setitem(published.value.meta, "categories", list("abcd"))
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetched)
    return settings("torchvision/squeezenet1_1", weights="IMAGENET1K_V1", input_size=[32, 40])


def test_published_weights_go_by_name_with_their_constants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from decrop._torchvision import torchvision

    expected = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=4).eval()
    asked: list[Any] = []

    def fetched(*arguments: Any, **given: Any) -> Any:
        asked.append(given)
        return expected.state_dict()

    given = small_squeezenet(monkeypatch, fetched)
    classifier = untrained_classifier(given, data(channels=3))
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert classifier.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert torch.equal(
        classifier.network.state_dict()["classifier.1.bias"], expected.classifier[1].bias
    )
    assert asked == [{"progress": False, "check_hash": True, "weights_only": True}]
    own = given.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)})
    assert untrained_classifier(own, data(channels=3)).mean.flatten().tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )


def test_published_weights_that_cannot_be_downloaded_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetched(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no route\nto host")

    message = refusal(small_squeezenet(monkeypatch, fetched), data(channels=3))
    assert message.startswith("classifier.weights: IMAGENET1K_V1 could not be downloaded (URLError")
    assert "no route to host" in message and "give a file of them" in message


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refusal(settings("timm/resnet18", weights="w"))
    assert "needs timm; install it with pip install 'decrop[timm]'" in message


def test_timm_models_are_built_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **given: Any) -> nn.Module:
        asked.append((name, given))
        return make(width=given["width"], classes=given["num_classes"])

    timm: Any = types.ModuleType("timm")
    timm.is_model = lambda name: name == "tiny"
    timm.list_models = lambda: ["tiny"]
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    save_file(make(width=3).state_dict(), tmp_path / "w")
    given = {"weights": str(tmp_path / "w"), "arguments": {"width": 3}}
    classifier = untrained_classifier(settings("timm/tiny", **given), data())
    assert classifier.architecture == "timm/tiny"
    expected = {"pretrained": False, "in_chans": 1, "num_classes": 4, "width": 3}
    assert asked == [("tiny", expected)]
    assert "nearest are tiny" in refusal(settings("timm/tinny", **given))

    of_timm = types.SimpleNamespace(
        num_classes=4, mean=(0.4,), std=(0.2,), hf_hub_id="timm/tiny.first"
    )
    timm.list_pretrained = lambda: ["tiny.first", "tiny.second", "other.third"]
    timm.get_pretrained_cfg = {"tiny.first": of_timm}.__getitem__
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda name, file: str(tmp_path / "w") if name == "timm/tiny.first" else None,
    )
    published = untrained_classifier(settings("timm/tiny", **given | {"weights": "first"}), data())
    assert published.mean.item() == pytest.approx(0.4)
    assert torch.equal(
        published.network.state_dict()["0.weight"], classifier.network.state_dict()["0.weight"]
    )
    assert "; there are first, second." in refusal(
        settings("timm/tiny", **given | {"weights": "third"})
    )


def test_a_program_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    path.write_bytes(program_of())
    classifier = untrained_classifier(settings(str(path)), data())
    images = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(classifier(images), make().eval()((images - 0.5) / 0.25))
    elsewhere = tmp_path / "renamed.pt2"
    path.rename(elsewhere)
    again = untrained_classifier(settings(str(elsewhere)), data())
    assert again.content_hash() == classifier.content_hash()
    resized = settings(str(elsewhere), input_size=[6, 6])
    assert untrained_classifier(resized, data(size=9))(torch.rand(2, 1, 9, 9)).shape == (2, 4)


def test_programs_of_other_images_or_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    path.write_bytes(program_of())
    message = refusal(settings(str(path)), data(size=9))
    assert "takes images 1x6x6 (channels x height x width), but is given 1x9x9" in message
    assert "set classifier.input_size=[6,6]" in message
    assert "use data of that many channels" in refusal(settings(str(path)), data(channels=3))
    assert "gives [2, 4] for images" in refusal(settings(str(path)), data(classes=2))
    assert "does not exist" in refusal(settings(str(tmp_path / "none.pt2")))


def test_uris_are_read_by_whoever_registers_their_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("memory", f"{__name__}:in_memory", "decrop.classifier_sources")

    def entry_points(**wanted: str) -> EntryPoints:
        return EntryPoints([point]).select(**wanted)

    monkeypatch.setattr(decrop.classifiers.sources, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: in_memory)
    assert untrained_classifier(settings("memory:/x"), data()).architecture == "in memory"
    message = refusal(settings("elsewhere://x"))
    assert "nothing installed reads elsewhere: URIs; there are memory:/." in message


def in_memory(given: ClassifierSettings, dataset: Dataset) -> Network:
    assert given.source == "memory:/x"
    return Network(make(classes=dataset.class_count), "in memory")


def test_bgr_needs_three_channels() -> None:
    assert "bgr needs images of 3 channels" in refusal(
        settings(f"{HERE}:make", channel_order="bgr")
    )
