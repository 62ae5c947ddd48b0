"""Certificates of images at several noise levels, and their envelope."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from decrop.config import TrialConfig
from decrop.denoisers.check import check_sigma
from decrop.evaluation.sigma_tables import SigmaTables, envelope_record, envelope_table
from decrop.evaluation.table import CertificateTable
from decrop.networks.conditional import SigmaConditional, told_sigma
from decrop.smoothing.collect import CertificationProgress
from decrop.smoothing.envelope import split_failure_probability
from decrop.smoothing.journal import journal_at
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.trial.certify import (
    Certification,
    CertificationTask,
    certification_outcome,
    certify,
    outcome_table,
)
from decrop.trial.result import Scores, TrialResult, radius_key


@dataclass(frozen=True)
class SigmaCertifications:
    """Certificates of a task at all standard deviations that a trial names.

    Attributes:
        own: at the trial's own sigma.
        tables: at all of them, with their envelope; None where the trial names no other.
        seconds: that all of it took.
    """

    own: Certification
    tables: SigmaTables | None
    seconds: float

    def scores(self) -> dict[str, Scores]:
        """Return the scores of all tables by their names (`SigmaTables.named`)."""
        radii = self.own.config.certification.radii
        named = {} if self.tables is None else self.tables.named()
        return {name: Scores.of(table, radii) for name, table in named.items()}

    def added_to(self, result: TrialResult) -> TrialResult:
        """Return the result of `own` with the scores at all sigmas, and of the envelope."""
        if self.tables is None:
            return result
        *scores, envelope = self.scores().values()
        return replace(
            result,
            by_sigma=dict(zip(map(radius_key, self.tables.by_sigma), scores, strict=True)),
            envelope=envelope,
            seconds={**result.seconds, "certification": round(self.seconds, 3)},
        )


def certify_at_sigmas(
    config: TrialConfig,
    task: CertificationTask,
    *,
    estimation_samples: int,
    journal: Path | None = None,
    hooks: Hooks = NO_HOOKS,
) -> SigmaCertifications:
    """Certify images at the trial's own sigma and at all of `certification.sigmas`.

    At each sigma the certificates are those that a trial with that sigma alone would have, from the
    same random bits. The envelope needs certificates at equal parts of the failure probability
    (`split_failure_probability`). They are computed from the same noise, whose counts are kept, so
    that only what a stricter level needs is drawn beyond them: nothing by the procedures `fixed`
    and `anytime`. Of images whose selected class is wrong at every sigma none of their certificates
    would count; the adaptive procedure draws the others without regard to their labels, for the
    class that the largest radius is of is to be right without knowing the label.

    Arguments and errors as of `certify`; beside the journal lie those of the other sigmas.
    """
    started = time.monotonic()
    sigmas = config.certified_sigmas
    if len(sigmas) == 1:
        own = certify(
            config, task, estimation_samples=estimation_samples, journal=journal, hooks=hooks
        )
        return SigmaCertifications(own, None, own.seconds)
    if any(isinstance(module, SigmaConditional) for module in task.network.modules()):
        for sigma in config.certification.sigmas:
            check_sigma(config.denoiser, sigma)
    with _journals(config, journal) as journals:
        found = {
            sigma: certify(
                config.at_sigma(sigma),
                task,
                estimation_samples=estimation_samples,
                journal=journals[sigma],
                hooks=hooks.of(f"at σ = {sigma:g}"),
            )
            for sigma in sigmas
        }
        tables = {sigma: certification.table for sigma, certification in found.items()}
        parts = _parts(config, task, tables, estimation_samples, journals, hooks)
    # What is computed with the network from now on is at the trial's own.
    told_sigma(task.network, config.sigma)
    own = replace(found[config.sigma], config=config)
    record = own.table.record
    assert record is not None  # `certify` gives each table one
    envelope = replace(
        envelope_table(parts, config.sigma),
        seconds=np.sum([table.seconds for table in [*tables.values(), *parts.values()]], axis=0),
        record=envelope_record(record, sigmas),
    )
    return SigmaCertifications(own, SigmaTables(tables, envelope), time.monotonic() - started)


def _parts(
    config: TrialConfig,
    task: CertificationTask,
    tables: Mapping[float, CertificateTable],
    estimation_samples: int,
    journals: Mapping[float, Path],
    hooks: Hooks,
) -> dict[float, CertificateTable]:
    """Certify at equal parts of the failure probability, from the counts of the whole one."""
    level = split_failure_probability(config.certification.failure_probability, len(tables))
    labels = task.images.labels.numpy()
    selected = {sigma: _selected(table) for sigma, table in tables.items()}
    wrong = np.all([classes != labels for classes in selected.values()], axis=0)
    parts = {}
    for sigma, classes in selected.items():
        own = config.at_sigma(sigma)
        certification = own.certification.model_copy(update={"failure_probability": level})
        outcome = certification_outcome(
            own.model_copy(update={"certification": certification}),
            task,
            np.where(wrong, labels, classes),
            estimation_samples=estimation_samples,
            journal=journals[sigma],
            hooks=_of_the_rest(hooks.of(f"the envelope at σ = {sigma:g}")),
        )
        parts[sigma] = outcome_table(task, outcome)
    return parts


def _of_the_rest(hooks: Hooks) -> Hooks:
    """Return hooks that are told of what is drawn beside counts that are kept, if anything."""

    def on_certified(progress: CertificationProgress) -> None:
        kept = progress.restored
        if progress.samples > kept:
            of_the_rest = replace(
                progress,
                samples=progress.samples - kept,
                samples_expected=max(1, progress.samples_expected - kept),
                restored=0,
            )
            hooks.on_certified(of_the_rest)

    # How the journal was found has been said.
    return replace(hooks, on_certified=on_certified, say=NO_HOOKS.say)


def _selected(table: CertificateTable) -> NDArray[np.int64]:
    assert table.selected is not None  # `certify` knows it
    return table.selected


@contextmanager
def _journals(config: TrialConfig, journal: Path | None) -> Iterator[dict[float, Path]]:
    """Name the journal of each sigma; without one they last as long as the block."""
    with TemporaryDirectory() as temporary:
        path = journal or Path(temporary) / "counts"
        yield {
            sigma: path if sigma == config.sigma else journal_at(path, sigma)
            for sigma in config.certified_sigmas
        }
