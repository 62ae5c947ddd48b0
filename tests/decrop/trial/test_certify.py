"""Certificates depend on seed, split and image alone, and rest on the settings' numbers."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta, norm
from torch import Tensor, nn

import decrop.smoothing.backend
from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.smoothing import collect
from decrop.smoothing.collect import CertificationProgress
from decrop.smoothing.execution import resolve_precision
from decrop.smoothing.sampling import ESTIMATION, CountRequest, LocalSampler, Sampler
from decrop.training.hooks import Hooks
from decrop.trial.certify import (
    CertificationTask,
    certify,
    noisy_image_seconds,
    precision_of,
    with_batch_size,
    with_recorded_batch_size,
)
from decrop.trial.result import Split
from tests.cases import cases
from tests.decrop.digits_trial import (
    CPU,
    FIXED,
    SELECTION_SAMPLES,
    certificates,
    short_trial,
)

CLASSES = 4
PROCEDURES = ["certification.procedure=adaptive", FIXED]


class NoisiestPixel(nn.Module):
    """Of four pixels the one that the noise brightens most."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class NoisiestPixelCountedFromTheEnd(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).flip(1)


class Always(nn.Module):
    """One class, whatever the image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(CLASSES)[self.label].expand(len(images), CLASSES)


def four_pixel_images(count: int = 12) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, images.flatten(1).argmax(1), torch.arange(count) * 3 + 5)


def column(values: NDArray[Any] | None) -> list[Any]:
    """Return a column that must be there."""
    assert values is not None
    return list(values.tolist())


def grid_up_to(radius: float) -> list[float]:
    """Return the multiples of the default step, as decimals print them."""
    return [round(0.05 * number, 2) for number in range(int(radius / 0.05) + 1)]


def table(
    network: nn.Module,
    images: LabelledImages,
    *assignments: str,
    split: Split = "test",
    estimation_samples: int = 100,
) -> CertificateTable:
    task = CertificationTask(network, images, split, CLASSES)
    return certify(short_trial(*assignments), task, estimation_samples=estimation_samples).table


@cases("procedure", PROCEDURES)
def test_different_networks_see_the_same_noise(procedure: str) -> None:
    images = four_pixel_images(30)
    # Of two pixels or counts that tie the first is taken, so neither may: none does in floating
    # point, nor among this many draws.
    settings = (
        procedure,
        "certification.noise=gaussian",
        "execution.precision=fp32",
        "certification.selection_samples=300",
        "certification.max_samples=1000",
    )
    # A label decides when an image stops, so the one network is right where the other is.
    mirrored = dataclasses.replace(images, labels=CLASSES - 1 - images.labels)
    forward = table(NoisiestPixel(), images, *settings, estimation_samples=200)
    backward = table(NoisiestPixelCountedFromTheEnd(), mirrored, *settings, estimation_samples=200)
    certified = forward.predict >= 0
    assert 0 < certified.sum() < len(certified)
    assert len(set(forward.radius.tolist())) > 3
    # Equal radii are equal counts of the same draws.
    assert backward.radius.tolist() == forward.radius.tolist()
    assert column(backward.samples) == column(forward.samples)
    assert (backward.predict[certified] == CLASSES - 1 - forward.predict[certified]).all()


def test_noise_depends_on_seed_and_split() -> None:
    images = four_pixel_images()
    one = certificates(table(NoisiestPixel(), images))
    assert certificates(table(NoisiestPixel(), images)) == one
    assert certificates(table(NoisiestPixel(), images, "seed=1")) != one
    assert certificates(table(NoisiestPixel(), images, split="held_out")) != one


def test_certificates_do_not_depend_on_which_other_images_are_certified() -> None:
    images = four_pixel_images()
    rows = certificates(table(NoisiestPixel(), images))
    for mask in (torch.arange(12) % 3 == 1, torch.arange(12) >= 11):
        alone = certificates(table(NoisiestPixel(), images.subset(mask)))
        assert alone == [row for row, kept in zip(rows, mask.tolist(), strict=True) if kept]


def test_unanimous_draws_give_the_radius_of_the_settings() -> None:
    """Clopper-Pearson of n of n draws is failure_probability ** (1 / n)."""
    images = four_pixel_images()
    settings = ("sigma=0.7", "certification.failure_probability=0.02", FIXED)
    found = table(Always(2), images, *settings, estimation_samples=90)
    expected = 0.7 * norm.ppf(0.02 ** (1 / 90))
    assert found.predict.tolist() == [2] * len(images)
    assert column(found.samples) == [SELECTION_SAMPLES + 90] * len(images)
    torch.testing.assert_close(
        torch.from_numpy(found.radius),
        torch.full((len(images),), expected, dtype=torch.float64),
        # What the bound leaves for rounding and for the sampled noise.
        rtol=1e-7,
        atol=0,
    )
    assert (found.radius < expected).all()


def test_adaptive_radii_are_in_the_grid_and_no_larger_than_fixed_draws_could_give() -> None:
    """The bound of Clopper-Pearson at one look exceeds that of tests that may look at each."""
    images = four_pixel_images(60)
    alpha, most = 0.05, 800
    watched: list[Watched] = []
    config = short_trial(f"certification.failure_probability={alpha}", "certification.radii=[0.13]")
    found = certify(
        config,
        CertificationTask(NoisiestPixel(), images, "test", CLASSES),
        estimation_samples=most,
        hooks=Hooks(make_sampler=lambda task: watch(LocalSampler(task, CPU), watched)),
    ).table
    reachable = config.sigma * norm.ppf(alpha ** (1 / most))
    assert set(found.radius.tolist()) <= {0.13, *grid_up_to(reachable)}
    assert len(set(found.radius.tolist())) > 5
    (sampler,) = watched
    best = np.zeros(len(images))
    for image, label in enumerate(images.labels.tolist()):
        draws, successes = 0, 0
        answered = sampler.answered
        for request in sorted(r for r in answered if r[:2] == (image, ESTIMATION)):
            draws += int(answered[request].sum())
            successes += int(answered[request][label])
            bound = beta.ppf(alpha, successes, draws - successes + 1) if successes else 0.0
            best[image] = max(best[image], config.sigma * norm.ppf(max(bound, 0.5)))
    assert (found.radius <= best).all()
    certified = found.radius > 0
    assert found.radius[certified].mean() > 0.6 * best[certified].mean()
    assert column(found.samples) == sampler.draws_by_image(len(images))


@cases("procedure", PROCEDURES)
def test_progress_ends_with_everything_drawn(procedure: str) -> None:
    config = short_trial("certification.selection_samples=10", procedure)
    images = four_pixel_images()
    progress: list[CertificationProgress] = []
    found = certify(
        config,
        CertificationTask(NoisiestPixel(), images, "test", CLASSES),
        estimation_samples=30,
        hooks=Hooks(on_certified=progress.append),
    ).table
    assert (progress[0].images_done, progress[0].samples) == (0, 0)
    drawn = sum(column(found.samples))
    assert progress[-1] == CertificationProgress(12, 12, drawn, drawn)
    if procedure == FIXED:
        assert drawn == 12 * 40
    else:
        assert 12 * 10 < drawn < 12 * 40


# The images that a network cannot answer


class NotFinite(nn.Module):
    """`NoisiestPixel`, but NaN where a fifth pixel is bright."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return torch.where(pixels[:, 4:] > 0.5, torch.nan, pixels[:, :CLASSES])


@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.filterwarnings("error")
def test_an_image_without_finite_logits_abstains_and_no_other_changes(procedure: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shown = torch.randint(256, (12, 1, 1, 5), generator=generator, dtype=torch.uint8)
    shown[..., 4] = 0
    labels = shown[:, 0, 0, :CLASSES].long().argmax(1)
    images = LabelledImages(shown, labels, torch.arange(12) * 3 + 5)
    # The noise of five standard deviations is not seen.
    settings = ("sigma=0.1", procedure)
    usual = certificates(table(NotFinite(), images, *settings))
    assert "not_finite" not in [row[-1] for row in usual]
    shown[7, ..., 4] = 255
    with pytest.warns(RuntimeWarning, match=r"^1 image abstains .* non-finite logits: 7 "):
        found = certificates(table(NotFinite(), images, *settings))
    assert found[:7] + found[8:] == usual[:7] + usual[8:]
    samples = SELECTION_SAMPLES + (100 if procedure == FIXED else 0)
    assert usual[7][2] == labels[7]
    assert found[7] == (5 + 3 * 7, labels[7], -1, 0.0, samples, "not_finite")


# What is certified again


class CutOffError(Exception):
    """The process ends here."""


class Watched:
    """A sampler that remembers what it answered, and may be cut off before an answer."""

    def __init__(self, sampler: Sampler, calls: int | None = None) -> None:
        self._sampler = sampler
        self._calls = calls
        self.answered: dict[tuple[int, int, int, int], NDArray[np.int64]] = {}

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        if self._calls is not None:
            if not self._calls:
                raise CutOffError
            self._calls -= 1
        counts = self._sampler.class_counts(requests)
        keys = [(r.image, r.stream, r.chunk, r.samples) for r in requests]
        assert len({*keys, *self.answered}) == len(keys) + len(self.answered)
        self.answered |= dict(zip(keys, counts, strict=True))
        return counts

    def draws_by_image(self, images: int) -> list[int]:
        drawn = [0] * images
        for image, _, _, draws in self.answered:
            drawn[image] += draws
        return drawn


def watch(sampler: Sampler, watched: list[Watched], calls: int | None = None) -> Watched:
    watched.append(Watched(sampler, calls))
    return watched[-1]


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_a_certification_that_was_cut_off_draws_only_the_rest(
    procedure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short groups, so that it can be cut off in many places.
    monkeypatch.setattr(collect, "_FIRST_GROUP", 8)
    monkeypatch.setattr(collect, "_GROUP_SECONDS", 0.0)
    config = short_trial(procedure, "execution.chunks_per_batch=1")
    images = four_pixel_images()

    told: list[CertificationProgress] = []

    def certified(path: Path | None, calls: int | None = None) -> tuple[list[Any], Watched]:
        """Return the certificates, none if it was cut off, and what was drawn for them."""
        watched: list[Watched] = []
        found = []
        with suppress(CutOffError):
            found = certificates(
                certify(
                    config,
                    CertificationTask(NoisiestPixel(), images, "test", CLASSES),
                    estimation_samples=100,
                    journal=path,
                    hooks=Hooks(
                        on_certified=told.append,
                        make_sampler=lambda task: watch(LocalSampler(task, CPU), watched, calls),
                    ),
                ).table
            )
        return found, watched[0]

    uninterrupted, whole = certified(None)
    assert len(uninterrupted) == len(images)
    assert told[-1].restored == 0
    calls = len(whole.answered)
    assert calls > 20
    for cut in (1, calls // 3, calls // 2, calls - 12):
        path = tmp_path / f"{cut}.counts"
        cut_off, before = certified(path, cut)
        assert not cut_off
        assert 0 < len(before.answered) < len(whole.answered)
        found, after = certified(path)
        assert found == uninterrupted
        assert not before.answered.keys() & after.answered.keys()
        assert before.answered.keys() | after.answered.keys() == whole.answered.keys()
        assert told[-1].restored == sum(samples for *_, samples in before.answered)
        again, nothing = certified(path)
        assert again == uninterrupted
        assert not nothing.answered


def test_the_batch_size_that_was_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = iter([3, 5])
    monkeypatch.setattr(
        decrop.smoothing.backend, "probe_chunks_per_batch", lambda task, device: next(probed)
    )
    images, path = four_pixel_images(), tmp_path / "execution.json"

    def chunks(*assignments: str, path: Path = path) -> int | str:
        config = short_trial(*assignments)
        task = CertificationTask(NoisiestPixel(), images, "test", CLASSES)
        found = with_recorded_batch_size(config, task, path)
        return found.execution.chunks_per_batch

    auto = "execution.chunks_per_batch=auto"
    assert chunks() == 4
    assert not path.exists()
    assert chunks(auto) == 3
    assert chunks(auto) == 3
    assert chunks(auto, path=tmp_path / "other.json") == 5
    assert chunks("execution.chunks_per_batch=2") == 2


def test_auto_finds_a_batch_size_that_certifies() -> None:
    config, images = short_trial("execution.chunks_per_batch=auto"), four_pixel_images()
    network = NoisiestPixel()
    found = with_batch_size(config, CertificationTask(network, images, "test", CLASSES))
    chunks = found.execution.chunks_per_batch
    assert chunks in [2**power for power in range(7)]
    rows = certificates(table(network, images, f"execution.chunks_per_batch={chunks}"))
    assert len(rows) == len(images)
    with pytest.raises(ValueError, match="chunks_per_batch is auto"):
        table(network, images, "execution.chunks_per_batch=auto")


# What else a result says


def test_precision_is_that_of_the_device_unless_set() -> None:
    assert precision_of(short_trial()) == resolve_precision("auto", CPU)
    for precision in ("fp32", "bf16"):
        assert precision_of(short_trial(f"execution.precision={precision}")) == precision


def test_latency_is_the_fastest_batch_shared_by_its_images_without_waiting_for_others() -> None:
    batches: list[int] = []

    class Slow(NoisiestPixel):
        def forward(self, images: Tensor) -> Tensor:
            batches.append(len(images))
            # The second pass, the first that is timed, takes longer.
            _compute(0.5 if len(batches) == 2 else 0.05)
            # What others compute meanwhile.
            time.sleep(0.2)
            return super().forward(images)

    config, images = short_trial("execution.chunks_per_batch=2"), four_pixel_images()
    rows = 2 * config.execution.chunk_size
    seconds = noisy_image_seconds(config, CertificationTask(Slow(), images, "test", CLASSES))
    assert len(batches) >= 4 and set(batches) == {rows}
    assert 0.05 <= seconds * rows < 0.2


def _compute(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass
