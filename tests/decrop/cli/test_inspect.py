"""`decrop inspect` says what a classifier is, as a page and as JSON."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands import decrop, refused
from tests.decrop.classifiers.exported import program_of
from tests.decrop.classifiers.factories import make

FACTORY = "tests.decrop.classifiers.factories:make"
QUICK = ["--images", "20", "--draws", "2", "--set", "execution.chunks_per_batch=1"]


def inspected(*arguments: object) -> tuple[str, dict[str, Any]]:
    ran = decrop("inspect", *arguments, *QUICK, "--json")
    assert ran.code == 0, ran.err
    return ran.out, ran.last_line


def test_a_function_is_described() -> None:
    shown, found = inspected(
        *(FACTORY, "--dataset", "digits"),
        *("--set", "classifier.arguments={width: 3, classes: 10, size: 9}"),
        *("--set", "classifier.input_size=[9,9]", "--set", "classifier.feature_layer='1'"),
        *("--set", "classifier.mean=[0]", "--set", "classifier.std=[1]"),
    )
    expected = {
        "source": FACTORY,
        "arguments": {"width": 3, "classes": 10, "size": 9},
        "parameters": sum(p.numel() for p in make(3, 10, 9).parameters()),
        "image_shape": [1, 8, 8],
        "input_size": [9, 9],
        "mean": [0.0],
        "std": [1.0],
        "feature_layer": "1",
        "features": 3,
        "images": 20,
        "split": "train",
        "draws": 2,
    }
    assert {name: found[name] for name in expected} == expected
    for text in ("resized (bilinear, antialiased)", "it standardises for itself", "3, the input"):
        assert text in shown


def test_the_layout_and_precision_that_a_network_needs_are_shown() -> None:
    viewing = [
        *("tests.decrop.classifiers.factories:flattening", "--dataset", "digits"),
        *("--set", "classifier.arguments={way: view, size: 8, classes: 10}"),
        *("--set", "execution.precision=bf16"),
    ]
    with pytest.warns(UserWarning, match=r"execution\.layout=contiguous"):
        shown, found = inspected(*viewing)
    assert (found["layout"], found["precision"]) == ("contiguous", "bf16")
    assert re.search(r"memory layout\W+contiguous", shown)
    assert found["trained_through"] is True


def test_a_network_without_gradients_is_said_to_be_of_no_use_for_denoisers() -> None:
    without = [
        *("tests.decrop.classifiers.factories:flattening", "--dataset", "digits"),
        *("--set", "classifier.arguments={way: no_gradient, size: 8, classes: 10}"),
    ]
    shown, found = inspected(*without)
    assert found["trained_through"] is False
    assert re.search(r"denoisers\W+no gradient reaches its images", shown)


def test_pixels_of_another_range_are_noticed() -> None:
    digits = ["tests.decrop.classifiers.factories:NearestDigit", "--dataset", "digits"]
    constants = ["--set", "classifier.mean=[0]", "--set", "classifier.std=[0.00392157]"]
    shown, found = inspected(*digits)
    assert "pixels of 0 to 255: " in str(found["other_input"])
    assert "classifier.mean=[0] and classifier.std=[0.00392157]" in str(found["other_input"])
    assert "seems to take" in shown
    shown, found = inspected(*digits, *constants)
    assert found["other_input"] is None and "seems to take" not in shown


def test_a_program_is_described(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt2"
    path.write_bytes(program_of(make(classes=10, size=8).eval(), (1, 8, 8)))
    _, found = inspected(path, "--dataset", "digits", "--split", "test")
    assert (found["architecture"], found["feature_layer"]) == ("program.pt2", "4")
    assert found["split"] == "test"


@pytest.mark.slow
def test_accuracy_falls_with_the_noise() -> None:
    shown, found = inspected("digits", "--set", "classifier.training.epochs=8")
    noisy = found["noisy_accuracy"]
    assert list(noisy) == ["0.12", "0.25", "0.5", "1"]
    clean = found["clean_accuracy"]
    assert clean >= 0.9
    assert clean + 0.05 >= noisy["0.12"] > noisy["0.5"] > 0
    assert noisy["1"] < 0.4
    assert isinstance(found["samples_per_second"], float) and found["samples_per_second"] > 0
    assert "samples a second without a denoiser, in" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere:make"], "nowhere cannot be imported"),
        ([FACTORY, "--set", "classifier.feature_layer=fc"], "no layer 'fc'; candidates are"),
        (["none.pt2"], "none.pt2 does not exist"),
        (["digit"], "There is no trial preset 'digit'"),
        (["small_cnn"], "--set classifier.weights=FILE"),
        ([FACTORY, "--denoiser", "unet"], "--denoiser unet: it has random weights"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str) -> None:
    classes = ["--set", "classifier.arguments={classes: 10, size: 8}"]
    given = [*arguments, *(classes if arguments[0] == FACTORY else []), "--dataset", "digits"]
    assert said in refused("inspect", *given, *QUICK)


DENOISERS = "tests.decrop.denoisers.factories"
CLASSIFIER = [
    *(FACTORY, "--dataset", "digits"),
    *("--set", "classifier.arguments={width: 3, classes: 10, size: 8}"),
]


def test_a_denoiser_is_described_beside_no_denoiser() -> None:
    shown, found = inspected(
        *(*CLASSIFIER, "--denoiser", f"{DENOISERS}:Smoothing"),
        *("--set", "denoiser.contract.sigma_range=[0,0.3]"),
        *("--set", "denoiser.pretrained_on=nothing but means"),
    )
    denoiser = found["denoiser"]
    assert denoiser["network"] == "Smoothing" and denoiser["parameters"] == 1
    assert not denoiser["takes_sigma"]
    assert (
        denoiser["psnr"].keys() == denoiser["noisy_accuracy"].keys() == {"0.12", "0.25", "0.5", "1"}
    )
    for before, after in list(denoiser["psnr"].values())[1:]:
        assert after > before + 1
    before = [before for before, _ in denoiser["psnr"].values()]
    assert before == pytest.approx([18.4, 12.0, 6.0, 0.0], abs=0.2)
    for text in ("trained before on nothing but means", "0.5 (not made for it)", "PSNR, dB"):
        assert text in shown
