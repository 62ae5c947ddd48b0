"""A model card says what was certified, on which images, and what is not claimed."""

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from decrop.bundle.model_card import Described, model_card
from decrop.config import TrialConfig
from decrop.evaluation.accuracy import exact_interval
from decrop.evaluation.table import Shares
from decrop.trial.result import Scores, Split, TrialResult
from tests.cases import cases
from tests.decrop.digits_trial import short_trial

ACCURACY = {"0.0": 0.525, "0.25": 0.275, "0.5": 0.0}


def card(
    *assignments: str,
    split: Split = "test",
    estimation_samples: int = 60,
    with_classifier: bool = True,
    license_id: str = "unknown",
    further_files: tuple[str, ...] = (),
) -> str:
    config: TrialConfig = short_trial(*assignments)
    result = TrialResult(
        split=split,
        scores=Scores(
            images=40,
            average_certified_radius=0.1234,
            certified_accuracy=ACCURACY,
            abstention_rate=0.175,
            area_under_curve=0.2,
            radius_error=0.01,
        ),
        clean_accuracy=0.925,
        flip_rate=0.5,
        precision="bf16",
        device="cuda",
        chunks_per_batch=32,
        hashes={},
        seconds={},
        image_shape=(1, 8, 8),
    )
    described = Described(
        config,
        result,
        estimation_samples,
        Shares(correct=0.525, misclassified=0.3, abstained=0.175),
        origin="Chosen by a fair die.",
        license_id=license_id,
    )
    files = [
        "certificates.tsv",
        "denoiser.safetensors",
        *(["classifier/weights.safetensors"] if with_classifier else []),
        *further_files,
    ]
    return model_card(described, files)


def header(text: str) -> Any:
    start, front_matter, _ = text.split("---\n", maxsplit=2)
    assert start == ""
    return yaml.safe_load(front_matter)


def body(text: str) -> str:
    """The text behind the header, without line breaks in sentences."""
    return " ".join(text.split("---\n", maxsplit=2)[2].split())


def test_certified_accuracies_are_tabulated_with_exact_intervals() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card().partition("## What")[0].splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["radius", "certified accuracy", "interval"]
    for row, (radius, accuracy) in zip(rows[2:], ACCURACY.items(), strict=True):
        low, high = (float(end) for end in exact_interval(round(accuracy * 40), 40))
        assert row == [radius, f"{100 * accuracy:.1f} %", f"{100 * low:.1f} % – {100 * high:.1f} %"]


def test_numbers_that_a_certificate_rests_on_are_given() -> None:
    text = body(card("sigma=0.125", "certification.failure_probability=0.002"))
    assert "σ = 0.125 in [0,1] pixels" in text
    assert "10 selection and at most 60 estimation samples" in text
    assert "wrong with a probability of at most 0.002" in text
    assert "bf16 on cuda" in text
    assert "Average certified radius 0.123" in text
    assert "certified correct 52.5 %, misclassified 30.0 % (a wrong class was selected" in text
    assert "abstentions 17.5 %" in text
    assert "accuracy without noise 92.5 %" in text
    assert "Chosen by a fair die." in text
    assert "3.00% of the training split" in text


def test_how_images_are_made_of_photographs_is_said() -> None:
    settings = ("dataset.name=image_folder", "dataset.image_size=224", "dataset.mode=rgb")
    text = body(card(*settings))
    assert "Files were read as rgb, resized until the shorter side has 256 pixels" in text
    assert "cut to the 224 x 224 in the centre" in text
    assert "Certificates are of the images that result. `decrop verify" in text
    assert "Files were" not in card()


@cases(
    ("settings", "said", "not_said"),
    [
        ((), "exact sequential tests of a grid of radii", "equally many"),
        (
            ("certification.procedure=fixed",),
            "by cohen from equally many noise draws of each image: "
            "10 selection and 60 estimation samples",
            "at most 60",
        ),
        (
            ("certification.procedure=fixed", "certification.certificate=t_certify_grid"),
            "by t_certify_grid from equally many",
            "cohen",
        ),
        (
            ("certification.procedure=fixed", "certification.certificate=t_certify_grid"),
            "is wrong with a probability of at most 0.05.",
            "has a gap",
        ),
        (
            ("certification.procedure=fixed", "certification.certificate=t_certify_published"),
            "published proof of T-CERTIFY has a gap",
            "cohen",
        ),
        (
            (),
            "interpolated samples (DE-CROP eq. 12), 5 epochs. Chosen by a fair die.",
            "Early stopping",
        ),
        (("training.early_stopping=true",), "5 epochs at most. Early stopping", "pretrained on"),
        (
            ("prior.kind=dead_leaves", "prior.steps=123"),
            "pretrained on generated images (random shapes that cover each other), 123",
            "Early stopping",
        ),
        (
            ("training.prior_images.kind=dead_leaves", "training.last_layers=2"),
            "Every step took 50 generated images as well (random shapes that cover each other). "
            "Only its last 2 layers were trained.",
            "pretrained on",
        ),
        (("training.last_layers=1",), "Only its last layer was trained.", "last 1"),
        (("training.sigma=[0.1, 0.5]",), "a standard deviation of 0.1 to 0.5.", "last"),
        (("training.sigma=0.3",), "a standard deviation of 0.3.", "every step"),
        (
            ("training.objective=mse", "training.adversarial.epsilon=0.5"),
            "Mean squared error to the clean images",
            "adversarial",
        ),
        (
            ("training.mse_epochs=7", "training.epochs=3", "training.discriminator_epochs=2"),
            "First mean squared error to the clean images (Salman et al. 2020), 7 epochs. "
            "DE-CROP's losses on boundary and interpolated samples (DE-CROP eq. 12), 5 epochs.",
            "adversarial",
        ),
        (
            (
                "training.adversarial.epsilon=0.12",
                "training.loss_weights.distillation=2",
                "training.distillation.loss=feature_maps",
            ),
            "The classifier's feature maps were kept near those of the clean image, with "
            "weight 2; its label had weight 1. In place of clean images it saw adversarial "
            "examples of the smoothed classifier, within 0.12 of them (L2).",
            "squared error",
        ),
    ],
)
def test_procedure_and_training_are_told(
    settings: tuple[str, ...], said: str, not_said: str
) -> None:
    text = body(card(*settings))
    assert said in text
    assert not_said not in text


@pytest.mark.parametrize(
    ("split", "said", "not_said"),
    [
        ("test", "40 test images, which chose nothing", "held-out"),
        ("held_out", "40 held-out images of the limited data", "test images"),
        ("held_out", "chosen by these certificates more may be wrong", "which chose nothing"),
    ],
)
def test_the_split_is_named(split: Split, said: str, not_said: str) -> None:
    text = body(card(split=split))
    assert said in text
    assert not_said not in text


def test_the_architecture_and_whether_its_weights_are_here_are_said() -> None:
    assert "pretrained small_cnn classifier" in body(card())
    assert "The classifier's weights are included." in body(card())
    assert "The classifier's weights are not included" in body(card(with_classifier=False))


def test_the_hub_reads_the_header() -> None:
    data = ModelCard(card(license_id="cc-by-4.0")).data
    assert data.license == "cc-by-4.0"
    assert data.library_name == "decrop"
    assert data.pipeline_tag == "image-classification"
    assert data.datasets == ["digits"]
    assert {"certified-robustness", "randomized-smoothing"} <= set(data.tags)
    assert ModelCard(card()).data.license == "unknown"


def test_data_of_the_users_own_have_no_name_that_others_know() -> None:
    own = ("dataset.name=parquet", "classifier.mean=[0.5]", "classifier.std=[0.5]")
    assert "datasets" not in header(card(*own))


def test_files_are_listed_with_what_they_are() -> None:
    text = card(further_files=("denoiser.onnx", "denoiser.pt2", "figures/certified_accuracy.png"))
    for name in ("denoiser.safetensors", "denoiser.onnx", "denoiser.pt2", "figures/"):
        assert f"| `{name}` |" in text
    assert "![Certified accuracy](figures/certified_accuracy.png)" in text
    for name in ("denoiser.onnx", "denoiser.pt2", "figures/"):
        assert name not in card()
    assert "| `classifier/weights.safetensors` |" not in card(with_classifier=False)


def test_the_shape_of_the_images_is_said() -> None:
    assert "digits, images of 1×8×8" in body(card())
