"""`decrop.load`: what was recorded comes back, guarantees hold, bad input is named."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.stats import binom, norm
from torch import Tensor, nn

import decrop
import decrop.bundle.smoothed_classifier
from decrop.bundle import load_bundle, verify_bundle
from decrop.bundle.smoothed_classifier import SmoothedClassifier
from decrop.classifiers.classifier import Classifier
from decrop.data.datasets import load_dataset
from decrop.errors import InputError
from decrop.networks.registry import build_classifier_network
from decrop.smoothing.procedures import CertificationOutcome
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from tests.cases import cases
from tests.decrop.digits_trial import export
from tests.refusals import one_line

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.fixture(scope="module")
def loaded(exported: Path) -> SmoothedClassifier:
    return decrop.load(exported)


def test_it_says_what_it_is_made_of(loaded: SmoothedClassifier) -> None:
    said = repr(loaded)
    assert said.startswith(
        "SmoothedClassifier(dncnn before small_cnn, 10 classes, images 1 x 8 x 8"
    )
    assert said.endswith(f"sigma {loaded.sigma:g}, {loaded.device})")


def certified_images(model: SmoothedClassifier) -> tuple[Tensor, Tensor, Tensor]:
    """The images that the bundle certified, with labels and indices."""
    indices = torch.from_numpy(model.bundle.certificates.idx)
    test = load_dataset(model.bundle.config.dataset).test
    return test.images(indices), test.labels[indices], indices


def rows(outcome: CertificationOutcome) -> list[tuple[Any, ...]]:
    columns = (outcome.prediction, outcome.radius, outcome.samples, outcome.ending)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def recorded(model: SmoothedClassifier) -> list[tuple[Any, ...]]:
    table = model.bundle.certificates
    assert table.samples is not None
    assert table.ending is not None
    columns = (table.predict, table.radius, table.samples, table.ending)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# Importing


def test_importing_decrop_imports_no_pytorch() -> None:
    command = (
        "import sys, decrop; assert 'torch' not in sys.modules; assert callable(decrop.load); "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)


def test_only_what_is_public_can_be_taken_from_the_package() -> None:
    assert decrop.SmoothedClassifier is SmoothedClassifier
    with pytest.raises(AttributeError, match="has no attribute 'save'"):
        _ = decrop.save


# Certificates


@pytest.mark.parametrize("name", ["exported", "fixed_exported"])
def test_recorded_certificates_come_back(name: str, request: pytest.FixtureRequest) -> None:
    model = decrop.load(request.getfixturevalue(name))
    images, labels, indices = certified_images(model)
    assert rows(model.certify(images, labels, indices)) == recorded(model)
    # The same images as floats, in other order, and with arrays.
    order = torch.arange(len(images) - 1, -1, -1)
    floats = (images[order].double() / 255).numpy()
    outcome = model.certify(floats, labels[order].numpy(), indices[order].numpy())
    assert rows(outcome) == recorded(model)[::-1]
    one = model.certify(images[3:4], labels[3:4], indices[3:4])
    assert rows(one) == recorded(model)[3:4]


def test_without_labels_wrong_classes_are_certified_too(loaded: SmoothedClassifier) -> None:
    images, labels, indices = certified_images(loaded)
    outcome = loaded.certify(images, indices=indices)
    assert "misclassified" not in outcome.ending
    before = np.array([row[3] for row in recorded(loaded)])
    assert (before == "misclassified").any()
    for row, known, ending in zip(rows(outcome), recorded(loaded), before, strict=True):
        assert row == known or ending == "misclassified"
    # With every label wrong, an image that is drawn to the end has another class selected.
    wrong = loaded.certify(images, (labels + 1) % 10, indices)
    assert (wrong.prediction != labels.numpy()).all()


def test_images_off_the_grid_are_certified_with_a_radius_less_their_distance(
    loaded: SmoothedClassifier,
) -> None:
    images, labels, indices = certified_images(loaded)
    moved = (images.double() + torch.where(images < 255, 0.2, -0.2)) / 255
    distance = 0.2 / 255 * np.sqrt(images[0].numel())
    on_grid = loaded.certify(images, labels, indices)
    near = loaded.certify(moved, labels, indices)
    left = on_grid.radius > distance
    assert left.any() and not left.all()
    assert (near.prediction == np.where(left, on_grid.prediction, -1)).all()
    assert near.radius == pytest.approx(np.where(left, on_grid.radius - distance, 0), abs=1e-6)


def test_noise_is_new_unless_images_are_numbered(loaded: SmoothedClassifier) -> None:
    images, _, indices = certified_images(loaded)

    def counts(**options: Any) -> NDArray[np.int64]:
        return loaded.certify(images, **options).selection_counts

    assert (counts(indices=indices) == counts(indices=indices)).all()
    assert (counts() != counts()).any()
    assert (counts() != counts(indices=torch.arange(len(images)))).any()


def test_progress_is_reported(loaded: SmoothedClassifier) -> None:
    images, _, _ = certified_images(loaded)
    seen: list[int] = []
    loaded.certify(images[:4], on_progress=lambda progress: seen.append(progress.images_done))
    assert (seen[0], seen[-1]) == (0, 4)


# Predictions


def test_predictions_are_the_classes_under_noise(loaded: SmoothedClassifier) -> None:
    images, _, indices = certified_images(loaded)
    predicted = loaded.predict(images, samples=400, indices=indices)
    assert predicted.dtype == np.int64
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = loaded.sigma * torch.randn(300, *images.shape, generator=generator)
        noisy = (images.float() / 255 + noise).flatten(0, 1)
        drawn = loaded.bundle.network(noisy).argmax(1).reshape(300, -1)
    decided = 0
    for image, label in enumerate(predicted.tolist()):
        share = torch.bincount(drawn[:, image], minlength=10) / 300
        if label >= 0:
            # Within the error of two estimates.
            assert share[label] >= share.max() - 0.15
            decided += 1
        else:
            assert share.topk(2).values.diff().abs().item() < 0.35
    assert decided > len(images) / 2


def test_more_samples_and_a_greater_failure_probability_decide_more(
    loaded: SmoothedClassifier,
) -> None:
    images, _, indices = certified_images(loaded)

    def abstentions(samples: int, failure_probability: float | None = None) -> int:
        predicted = loaded.predict(
            images, samples=samples, failure_probability=failure_probability, indices=indices
        )
        return int((predicted == -1).sum())

    # 4 draws of one class have probability 2 / 2^4 > 0.05 of being a tie's.
    assert abstentions(4) == len(images)
    assert abstentions(6) < len(images)
    assert abstentions(600) < abstentions(10)
    assert abstentions(100, 1e-9) > abstentions(100, 0.5)
    assert abstentions(100) == abstentions(100, 0.05)


class Coin(nn.Module):
    """Class 0 where the noise of the only pixel is below a threshold, else class 1."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, :1].float() - self.threshold
        return torch.cat([-pixel, pixel], dim=1)


def of_a_coin(model: SmoothedClassifier, probability: float) -> SmoothedClassifier:
    """The smoothed classifier of images of one pixel that gives class 0 with a probability."""
    threshold = 0.5 + model.sigma * float(norm.ppf(probability))
    classifier = Classifier(
        Coin(threshold), architecture="coin", mean=(0.0,), std=(1.0,), class_count=2
    )
    execution = model.bundle.config.execution.model_copy(update={"precision": "fp32"})
    bundle = dataclasses.replace(
        model.bundle,
        config=model.bundle.config.model_copy(update={"execution": execution}),
        denoiser=nn.Identity(),
        classifier=classifier,
        class_names=("heads", "tails"),
        result=dataclasses.replace(model.bundle.result, image_shape=(1, 1, 1)),
    )
    return SmoothedClassifier(bundle, Path("none"))


# Numbers at which the exact test of twice the level rejects about twice as often.
@pytest.mark.slow
@pytest.mark.parametrize("samples", [30, 100])
def test_predictions_are_wrong_no_more_often_than_allowed(
    loaded: SmoothedClassifier, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tie every answer is wrong, so that a wrong test is caught."""
    coin = of_a_coin(loaded, 0.5)
    images = torch.full((4_000, 1, 1, 1), 0.5)
    most_allowed = binom.ppf(0.9999, len(images), 0.05)

    def wrong() -> int:
        predicted = coin.predict(images, samples=samples, failure_probability=0.05)
        return int((predicted != -1).sum())

    # It spends a good part of what it may.
    assert 0.02 * len(images) < wrong() <= most_allowed
    assert coin.predict(images[:50], samples=samples, failure_probability=0.999).max() >= 0

    def one_sided(counts: NDArray[np.int64], failure_probability: float) -> NDArray[np.int64]:
        return right(counts, 2 * failure_probability)

    right = decrop.bundle.smoothed_classifier.smoothed_predictions
    monkeypatch.setattr(decrop.bundle.smoothed_classifier, "smoothed_predictions", one_sided)
    assert wrong() > most_allowed


def test_certificates_of_new_noise_are_wrong_no_more_often_than_allowed(
    loaded: SmoothedClassifier,
) -> None:
    radius = 0.25
    coin = of_a_coin(loaded, float(norm.cdf(radius / loaded.sigma)))
    outcome = coin.certify(torch.full((4_000, 1, 1, 1), 0.5))
    # Rounding of the threshold to fp32 aside, class 0 is right up to the radius.
    wrong = (outcome.prediction == 1) | (outcome.radius > radius + 1e-6)
    assert wrong.sum() <= binom.ppf(0.9999, 4_000, 0.05)
    assert (outcome.prediction == 0).mean() > 0.9


def test_images_with_logits_that_are_not_finite_abstain(loaded: SmoothedClassifier) -> None:
    coin = of_a_coin(loaded, float(norm.cdf(1)))
    coin.bundle.classifier.network.threshold = float("nan")
    with pytest.warns(RuntimeWarning, match="^1 image abstains because of"):
        assert coin.predict(torch.zeros(1, 1, 1, 1)).tolist() == [-1]


# Denoising


def test_denoised_images_are_the_denoisers(loaded: SmoothedClassifier) -> None:
    images, _, _ = certified_images(loaded)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = images.float() / 255 + loaded.sigma * noise
    denoised = loaded.denoise(noisy)
    with torch.no_grad():
        assert torch.equal(denoised, loaded.bundle.denoiser(noisy))
        clean = loaded.bundle.denoiser(images.float() / 255)
    assert denoised.dtype == torch.float32
    assert not denoised.requires_grad
    assert torch.equal(loaded.denoise(images), clean)
    assert torch.equal(loaded.denoise(images.numpy()), clean)


# What cannot be used


IMAGES = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("method", ["predict", "certify", "denoise"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"images must be \[batch, 1, 8, 8\], but are \[1, 8, 8\]"),
        (torch.zeros(3, 3, 8, 8), r"images must be \[batch, 1, 8, 8\], but are \[3, 3, 8, 8\]"),
        (torch.zeros(3, 1, 9, 8), r"images must be \[batch, 1, 8, 8\], but are \[3, 1, 9, 8\]"),
        (IMAGES[:0], "images must be at least 1, but are 0"),
        (IMAGES.int(), r"images must be uint8, or floats in \[0,1\], but are torch\.int32"),
        (IMAGES.bool(), r"images must be uint8, or floats in \[0,1\], but are torch\.bool"),
        (IMAGES + 255.0, "images must be uint8, or floats in .*, but are from 255 to 255"),
        (IMAGES - 20.0, "images must be uint8, or floats in .*, but are from -20 to -20"),
        (IMAGES + torch.nan, "images must be uint8, or floats in .*, but are from nan to nan"),
        (IMAGES + torch.inf, "images must be uint8, or floats in .*, but are from inf to inf"),
    ],
)
def test_bad_images_are_refused(
    method: str, images: Tensor, message: str, loaded: SmoothedClassifier
) -> None:
    with pytest.raises(InputError, match=message) as error:
        getattr(loaded, method)(images)
    assert "\n" not in str(error.value)


def test_noise_is_allowed_in_what_is_denoised_alone(loaded: SmoothedClassifier) -> None:
    noisy = IMAGES - 0.5
    loaded.denoise(noisy)
    with pytest.raises(InputError, match=r"floats in \[0,1\], but are from -0\.5 to -0\.5"):
        loaded.certify(noisy)


@cases(
    ("options", "message"),
    [
        ({"labels": [1, 2]}, r"labels must be \[3\], one an image, but are \[2\]"),
        ({"labels": [1, 2, 10]}, "labels must be from 0 to 9, but are from 1 to 10"),
        ({"labels": [1, 2, -1]}, "labels must be from 0 to 9, but are from -1 to 2"),
        ({"labels": [1.0, 2.0, 3.0]}, "labels must be integers"),
        ({"indices": [1, 2, -3]}, "indices must be at least 0, but are from -3 to 2"),
        ({"indices": [[1, 2, 3]]}, r"indices must be \[3\]"),
        ({"indices": [True, False, True]}, "indices must be integers"),
    ],
)
def test_bad_labels_and_indices_are_refused(
    options: dict[str, Any], message: str, loaded: SmoothedClassifier
) -> None:
    arrays = {name: np.array(values) for name, values in options.items()}
    with pytest.raises(InputError, match=message):
        loaded.certify(IMAGES, **arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, but is 0"),
        ({"failure_probability": 0.0}, "failure_probability must lie between 0 and 1"),
        ({"failure_probability": 1.0}, "failure_probability must lie between 0 and 1"),
    ],
)
def test_bad_settings_of_predictions_are_refused(
    options: dict[str, Any], message: str, loaded: SmoothedClassifier
) -> None:
    with pytest.raises(InputError, match=message):
        loaded.predict(IMAGES, **options)


# Device


def test_device_is_the_recorded_kind_unless_another_is_given(exported: Path) -> None:
    assert decrop.load(exported).device.type == "cpu"
    assert decrop.load(str(exported), device="cpu").device.type == "cpu"
    auto = decrop.load(exported, device="auto").device.type
    assert auto == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device must be auto, cpu, cuda, but is 'gpu'"):
        decrop.load(exported, device="gpu")  # type: ignore[arg-type]


@CPU_ONLY
def test_a_bundle_of_another_kind_of_device_is_used_when_asked_for(exported: Path) -> None:
    bundle = load_bundle(exported)
    execution = bundle.config.execution.model_copy(update={"device": "cuda"})
    config = bundle.config.model_copy(update={"execution": execution})
    result = dataclasses.replace(bundle.result, device="cuda")
    of_cuda = dataclasses.replace(bundle, config=config, result=result)
    with pytest.raises(InputError, match="finds no CUDA device; use auto or cpu"):
        SmoothedClassifier(of_cuda, exported)
    with pytest.raises(InputError, match="finds no CUDA device"):
        verify_bundle(of_cuda)
    assert verify_bundle(of_cuda, device="cpu") == len(bundle.certificates.idx)
    with pytest.warns(UserWarning, match="certified on cuda; on cpu the function has other last"):
        model = SmoothedClassifier(of_cuda, exported, device="cpu")
    images, labels, indices = certified_images(model)
    assert rows(model.certify(images, labels, indices)) == recorded(model)


# Bundles without their classifier


@pytest.fixture(scope="module")
def without_classifier(
    final_trial: TrialFolder, inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("without") / "bundle"
    return export(final_trial, inputs, path, with_classifier=False)


@cases("kind", ["path", "string", "classifier", "network"])
def test_the_classifier_may_be_given(
    kind: str, without_classifier: Path, exported: Path, inputs: TrialInputs
) -> None:
    weights = exported / "classifier" / "weights.safetensors"
    given = {
        "path": weights,
        "string": str(weights),
        "classifier": inputs.classifier,
        "network": inputs.classifier.network,
    }[kind]
    model = decrop.load(without_classifier, classifier=given)
    images, labels, indices = certified_images(model)
    assert rows(model.certify(images, labels, indices)) == recorded(model)


@pytest.mark.parametrize("kind", ["path", "classifier", "network"])
def test_another_classifier_is_refused_with_both_hashes(
    kind: str, without_classifier: Path, inputs: TrialInputs, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_classifier_network("small_cnn", image_channels=1, class_count=10).eval()
    other = Classifier(
        network,
        architecture="small_cnn",
        mean=tuple(inputs.classifier.mean.flatten().tolist()),
        std=tuple(inputs.classifier.std.flatten().tolist()),
        class_count=10,
    )
    save_file(network.state_dict(), tmp_path / "other.safetensors")
    given = {"path": tmp_path / "other.safetensors", "classifier": other, "network": network}[kind]
    message = one_line(decrop.load, without_classifier, classifier=given)
    assert f"content hash is {other.content_hash()[:12]}" in message
    assert f"recorded is {inputs.classifier.content_hash()[:12]}" in message
    named = {"path": "other.safetensors", "classifier": "Classifier", "network": "SmallCNN"}[kind]
    assert named in message.split(" is not the classifier")[0]


def test_a_network_of_another_architecture_is_refused(without_classifier: Path) -> None:
    with pytest.raises(InputError, match="The given Linear does not fit small_cnn: it misses"):
        decrop.load(without_classifier, classifier=nn.Linear(2, 2))
