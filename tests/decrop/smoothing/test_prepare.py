"""Networks of all kinds, prepared as certification and training use them, or refused."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import decrop
from decrop.bundle import export_bundle, load_bundle, verify_bundle
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.cli.main import run
from decrop.config import ExecutionSettings
from decrop.errors import InputError
from decrop.smoothing import execution as execution_module
from decrop.smoothing.prepare import as_given, fitting_execution, prepared
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
from tests.decrop.classifiers.factories import Misleading, flattening
from tests.decrop.digits_trial import TEST_IMAGES, sample_nothing, short_trial
from tests.decrop.tiny import CPU

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 6, 6)
FACTORY = "tests.decrop.classifiers.factories:flattening"


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, architecture="x", mean=(0.4,), std=(0.3,), class_count=4)


def fitting(way: str, **settings: str) -> tuple[str, str, str]:
    found = fitting_execution(
        ExecutionSettings(device="cpu", **settings),  # type: ignore[arg-type]
        classifier(flattening(way)),
        SHAPE,
        trained_through=True,
    )
    return found.precision, found.training_precision, found.layout


@pytest.fixture
def computes_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "_computes_in_bf16", lambda device: True)


@pytest.mark.usefixtures("computes_in_bf16")
def test_what_a_network_cannot_take_is_replaced_and_said() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert fitting("flatten") == fitting("in_place") == ("auto", "auto", "auto")
    assert not said
    with pytest.warns(UserWarning, match=r"is run with execution\.layout=contiguous, for it fails"):
        assert fitting("view") == ("auto", "auto", "contiguous")
    for way in ("cast", "plain_tensor", "grid"):
        with pytest.warns(UserWarning, match=r"is run with execution\.precision=fp32"):
            assert fitting(way) == ("fp32", "auto", "auto")
        with pytest.raises(InputError, match=r"in bf16, .*; run it in fp32, or let it take"):
            fitting(way, precision="bf16")


def test_what_works_in_no_way_is_refused_in_one_line() -> None:
    for way, reason in {
        "no_gradient": "no gradient reaches its images",
        "double": "RuntimeError",
        "squeeze": r"gives \[4\] for images of which it gives \[1, 4\] beside others",
    }.items():
        with pytest.raises(InputError, match=reason) as error:
            fitting(way)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="in fp32, channels_last: RuntimeError"):
        fitting("view", layout="channels_last")


def test_zero_gradients_are_refused() -> None:
    network = flattening("flatten")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="the gradients of its images are zero or not finite"):
        fitting_execution(
            ExecutionSettings(device="cpu"), classifier(network), SHAPE, trained_through=True
        )


def test_prepared_copies_answer_as_the_network() -> None:
    images = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(0))
    for way in ("residual", "shared", "before", "after relu"):
        torch.manual_seed(0)
        network = Misleading(way).eval()
        found = prepared(network, "fp32", "channels_last", CPU)
        torch.testing.assert_close(
            found(as_given(images, "fp32", "channels_last")), network(images), msg=way
        )


def test_a_network_that_keeps_what_it_computed_can_be_copied() -> None:
    network = flattening("flatten")
    network(torch.rand((2, *SHAPE))).sum().backward()
    prepared(network, "fp32", "channels_last", CPU)


def source(way: str) -> list[str]:
    return [
        "classifier.training=null",
        f"classifier.source={FACTORY}",
        f"classifier.arguments={{way: {way}, size: 8, classes: 10}}",
        "classifier.mean=[0.3]",
        "classifier.std=[0.3]",
    ]


def test_a_network_whose_hooks_keep_what_its_copies_compute_is_loaded(tmp_path: Path) -> None:
    # Once tried out with gradients, it holds what cannot be copied.
    inputs = load_inputs(short_trial(*source("hook")), ContentCache(tmp_path), CPU)
    assert inputs.classifier.network.kept is not None


def test_a_network_that_views_is_trained_through_certified_and_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_nothing(monkeypatch)
    cache, folder = ContentCache(tmp_path / "cache"), TrialFolder(tmp_path / "trial")
    config = short_trial(*source("view"), "training.evaluations=1")
    inputs = load_inputs(config, cache, CPU)
    with pytest.warns(UserWarning, match=r"execution\.layout=contiguous"):
        list(run_trial(config, inputs, folder, cache, split="test"))
    path = tmp_path / "bundle"
    export_bundle(folder, inputs.classifier, inputs.class_names, path, origin="Made for tests.")
    with warnings.catch_warnings():
        # The features that it kept in training are no other code.
        warnings.simplefilter("error")
        bundle = load_bundle(path, trust_code=True)
    assert bundle.config.execution.layout == "contiguous"
    assert verify_bundle(bundle) == TEST_IMAGES
    images = inputs.test.images
    answers = decrop.load(path, trust_code=True).certify(images, indices=inputs.test.indices)
    # Without labels the misclassified are certified too.
    right = bundle.certificates.predict >= 0
    assert right.any()
    assert (answers.prediction[right] == bundle.certificates.predict[right]).all()


@pytest.mark.parametrize("way", ["double", "squeeze", "no_gradient"])
def test_what_cannot_be_used_is_refused_by_the_command(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for item in source(way) for word in ("--set", item)]
    assert run(["train", "digits", *options, "--out", str(tmp_path / "run")]) == 2
    assert "does not work as it would be used" in capsys.readouterr().err
