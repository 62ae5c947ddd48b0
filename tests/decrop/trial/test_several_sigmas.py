"""Certificates at several sigmas are those of each alone, and their envelope is sound."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm
from torch import Tensor, nn

from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.evaluation.sigma_tables import SigmaTables
from decrop.evaluation.table import CertificateTable
from decrop.networks.conditional import SigmaConditional
from decrop.smoothing.collect import CertificationProgress, OnProgress
from decrop.smoothing.envelope import split_failure_probability
from decrop.smoothing.sampling import CountRequest, LocalSampler, Sampler, SamplingTask
from decrop.training.hooks import Hooks
from decrop.trial import several_sigmas
from decrop.trial.certify import CertificationTask, certify
from decrop.trial.several_sigmas import SigmaCertifications, certify_at_sigmas
from tests.cases import cases, slow_but
from tests.decrop.digits_trial import FIXED, certificates, short_trial
from tests.decrop.smoothing.virtual import VirtualSampler
from tests.decrop.trial.test_certify import CLASSES, NoisiestPixel, four_pixel_images

ADAPTIVE, ANYTIME = "certification.procedure=adaptive", "certification.procedure=anytime"
SIGMAS = (0.1, 0.25, 0.5)
SEVERAL = "certification.sigmas=[0.1,0.5]"


def several(
    config: TrialConfig,
    network: nn.Module | None = None,
    images: LabelledImages | None = None,
    journal: Path | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008
) -> SigmaCertifications:
    task = CertificationTask(
        network or NoisiestPixel(), images or four_pixel_images(30), "test", CLASSES
    )
    samples = config.certification.most_estimation_samples
    return certify_at_sigmas(config, task, estimation_samples=samples, journal=journal, hooks=hooks)


def tables_of(found: SigmaCertifications) -> SigmaTables:
    assert found.tables is not None
    return found.tables


def alone(config: TrialConfig, sigma: float, network: nn.Module | None = None) -> CertificateTable:
    """Return the certificates of a trial with that sigma and no other."""
    task = CertificationTask(network or NoisiestPixel(), four_pixel_images(30), "test", CLASSES)
    samples = config.certification.most_estimation_samples
    return certify(config.at_sigma(sigma), task, estimation_samples=samples).table


@cases("procedure", [ADAPTIVE, FIXED, ANYTIME])
def test_at_each_sigma_they_are_those_of_that_sigma_alone(procedure: str) -> None:
    config = short_trial(procedure, SEVERAL)
    found = several(config)
    assert tuple(tables_of(found).by_sigma) == SIGMAS == config.certified_sigmas
    for sigma, table in tables_of(found).by_sigma.items():
        expected = alone(config, sigma)
        assert certificates(table) == certificates(expected)
        assert table.record == expected.record
    assert certificates(found.own.table) == certificates(alone(config, 0.25))


@cases("assignment", ["certification.sigmas=[]", "certification.sigmas=[0.25]"])
def test_one_sigma_has_no_envelope(assignment: str) -> None:
    found = several(short_trial(assignment))
    assert found.tables is None
    assert found.own.table.record == alone(short_trial(), 0.25).record


@cases("procedure", [ADAPTIVE, FIXED])
def test_the_envelope_has_the_largest_of_stricter_certificates(procedure: str) -> None:
    config = short_trial(procedure, SEVERAL)
    # Labels that are surest at the largest sigma, so that a smaller one is surer of another class.
    labels = alone(config, 0.5).selected
    assert labels is not None
    labelled = replace(four_pixel_images(30), labels=torch.from_numpy(labels))
    envelope = tables_of(several(config, images=labelled)).envelope
    level = split_failure_probability(0.05, 3)
    strict = short_trial(procedure, f"certification.failure_probability={level!r}")
    # As if no class were wrong, so that no image is given up for its label.
    parts = {}
    for sigma in SIGMAS:
        own = strict.at_sigma(sigma)
        selected = alone(own, sigma).selected
        assert selected is not None
        images = replace(four_pixel_images(30), labels=torch.from_numpy(selected))
        task = CertificationTask(NoisiestPixel(), images, "test", CLASSES)
        parts[sigma] = certify(own, task, estimation_samples=60).table
    right = np.any([part.selected == envelope.label for part in parts.values()], axis=0)
    assert right.sum() > 5
    for image in np.flatnonzero(right):
        radii = [part.radius[image] - (part.predict[image] < 0) for part in parts.values()]
        best = int(np.argmax(radii))
        assert envelope.radius[image] == max(radii[best], 0)
        assert envelope.predict[image] == parts[SIGMAS[best]].predict[image]
        assert envelope.sigma is not None
        assert envelope.sigma[image] == (SIGMAS[best] if envelope.predict[image] >= 0 else 0)
    # It has wrong classes, too, where those are surer.
    assert ((envelope.predict >= 0) & ~envelope.correct)[right].any()
    assert envelope.record is not None
    assert envelope.record.certification.sigmas == SIGMAS
    assert "for all sigmas together" in envelope.record.guarantee()


def test_nothing_is_drawn_twice(tmp_path: Path) -> None:
    drawn = 0

    class Counting(LocalSampler):
        def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
            nonlocal drawn
            drawn += sum(request.samples for request in requests)
            return super().class_counts(requests)

    hooks = Hooks(make_sampler=lambda task: Counting(task, torch.device("cpu")))
    for path in (None, tmp_path / "counts"):
        drawn = 0
        several(short_trial(FIXED, SEVERAL), journal=path, hooks=hooks)
        assert drawn == 3 * 30 * 70
    assert {path.name for path in tmp_path.iterdir()} == {
        "counts",
        "counts.sigma_0.1",
        "counts.sigma_0.5",
    }
    drawn = 0
    several(short_trial(FIXED, SEVERAL), journal=tmp_path / "counts", hooks=hooks)
    assert drawn == 0


def test_progress_is_told_by_sigma_and_then_of_what_is_drawn_for_the_envelope() -> None:
    told: dict[str, list[CertificationProgress]] = {}

    def certifying(name: str) -> OnProgress:
        told[name] = []
        return told[name].append

    # Of many images the class that is selected is wrong at some sigma only.
    found = several(short_trial(ADAPTIVE, SEVERAL), hooks=Hooks(certifying=certifying))
    assert list(told)[:3] == ["at σ = 0.1", "at σ = 0.25", "at σ = 0.5"]
    assert list(told)[3:] == [f"the envelope {name}" for name in list(told)[:3]]
    envelope = tables_of(found).envelope.samples
    assert envelope is not None
    for name in list(told)[:3]:
        rest = told[f"the envelope {name}"]
        assert all(one.samples > 0 and one.restored == 0 for one in rest)
        assert all(one.samples_expected < told[name][-1].samples for one in rest)
    drawn = sum(progress[-1].samples for progress in told.values() if progress)
    assert drawn >= envelope.sum()


class Told(SigmaConditional):
    """Adds what it was told to the second pixel, so that counts tell it."""

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        added = torch.zeros_like(images)
        added[:, 0, 0, 1] = 4 * sigma
        return images + added


def told(sigma: float) -> nn.Module:
    """Return a network that adds as much whatever it is told."""

    class Adding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return Told().denoised(images, images.new_full((len(images),), sigma))

    return nn.Sequential(Adding(), NoisiestPixel())


def test_denoisers_are_told_the_sigma_that_they_are_certified_at() -> None:
    config = short_trial(FIXED, SEVERAL, "execution.precision=fp32")
    denoiser = Told()
    found = several(config, nn.Sequential(denoiser, NoisiestPixel()))
    for sigma, table in tables_of(found).by_sigma.items():
        expected = alone(config, sigma, told(sigma))
        assert certificates(table) == certificates(expected)
    assert certificates(found.own.table) != certificates(alone(config, 0.25, told(0.5)))
    # As it is for what is computed afterwards.
    assert denoiser.sigma == 0.25


REPETITIONS = 4_000
# Where all sigmas have the same exact radius, each certificate beyond it is the largest.
EXACT = 0.1 * float(norm.ppf(0.705))


def share_wrong(procedure: str) -> float:
    """Certify images whose exact radii are known at each sigma; return how many envelopes are not.

    Class 0 is the label of half of them, so that labels stop some of the sampling.
    """
    config = short_trial(
        procedure,
        "sigma=0.1",
        "certification.sigmas=[0.15,0.2]",
        f"certification.radii=[0,{EXACT}]",
        "certification.max_samples=210",
        "certification.estimation_samples=200",
        "execution.chunk_size=50",
    )
    images = four_pixel_images(REPETITIONS)
    images = replace(images, labels=torch.arange(REPETITIONS) % 2)

    def make_sampler(task: SamplingTask) -> Sampler:
        top = float(norm.cdf(EXACT / task.sigma)) * (1 - 1e-9)
        probabilities = np.tile([top, 1 - top, 0, 0], (REPETITIONS, 1))
        return VirtualSampler(probabilities, seed=round(1000 * task.sigma))

    envelope = tables_of(
        several(config, images=images, hooks=Hooks(make_sampler=make_sampler))
    ).envelope
    wrong = (envelope.predict > 0) | ((envelope.predict == 0) & (envelope.radius >= EXACT))
    return float(wrong.mean())


MOST_WRONG = float(binom.ppf(0.9999, REPETITIONS, 0.05)) / REPETITIONS


@pytest.mark.parametrize("procedure", slow_but([FIXED, ADAPTIVE], FIXED))
def test_envelopes_are_wrong_no_more_often_than_allowed(procedure: str) -> None:
    assert share_wrong(procedure) <= MOST_WRONG


def test_an_envelope_of_certificates_at_the_whole_level_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(several_sigmas, "split_failure_probability", lambda level, parts: level)
    assert share_wrong(FIXED) > MOST_WRONG


def test_a_denoiser_that_was_trained_for_less_noise_is_warned_of() -> None:
    config = short_trial(
        FIXED, SEVERAL, "denoiser.source=other:made", "denoiser.contract.sigma_range=[0.05,0.3]"
    )
    with pytest.warns(UserWarning, match="trained for sigma from 0.05 to 0.3; sigma is 0.5"):
        several(config, nn.Sequential(Told(), NoisiestPixel()))
