"""Certificates that a command has written before, read in place of being computed again."""

from pathlib import Path

from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.evaluation.record import CertificationRecord, read_record
from decrop.evaluation.sigma_tables import SigmaTables, envelope_record, sigma_table_paths
from decrop.evaluation.table import CertificateTable
from decrop.trial.certify import Certification, CertificationTask, with_chunks_per_batch
from decrop.trial.result import Scores
from decrop.trial.several_sigmas import SigmaCertifications

_MOST_CHANGES = 3


def certified_before(
    config: TrialConfig, task: CertificationTask, out: Path, *, estimation_samples: int
) -> SigmaCertifications | None:
    """Return what `certify_at_sigmas` gave before, where its tables are written to `out`.

    Args:
        config: the trial's settings, with precision and layout that fit the network.
        out: the table at the trial's own sigma.
        estimation_samples: N, or the most of them where images stop early.

    Returns:
        None where a table is missing, or an `anytime` certification goes on with more samples.
    """
    expected = _expected(config, task, out, estimation_samples)
    # Those that are missing have nothing to lose, but others may.
    again = [_is_again(config, path, record) for path, record in expected.items()]
    if not all(again):
        return None
    sigmas, own = config.certified_sigmas, CertificateTable.read_tsv(out)
    assert own.record is not None  # `_is_again` has read it
    config = with_chunks_per_batch(config, own.record.chunks_per_batch)
    return SigmaCertifications(
        own=Certification(
            config=config,
            task=task,
            table=own,
            scores=Scores.of(own, config.certification.radii),
            seconds=float(own.seconds.sum()),
        ),
        tables=SigmaTables.read(out, config.sigma, sigmas) if len(sigmas) > 1 else None,
        seconds=float(own.seconds.sum()),
    )


def _expected(
    config: TrialConfig, task: CertificationTask, out: Path, estimation_samples: int
) -> dict[Path, CertificationRecord]:
    """Return the record that each table would have; the batch size of `auto` is 1."""
    chunks = config.execution.chunks_per_batch
    own = CertificationRecord.of(
        with_chunks_per_batch(config, 1 if chunks == "auto" else chunks),
        task.network,
        task.images,
        split=task.split,
        estimation_samples=estimation_samples,
    )
    sigmas = config.certified_sigmas
    if len(sigmas) == 1:
        return {out: own}
    paths = sigma_table_paths(out, config.sigma, sigmas).values()
    records = [own.model_copy(update={"sigma": sigma}) for sigma in sigmas]
    return dict(zip(paths, [*records, envelope_record(own, sigmas)], strict=True))


def _is_again(config: TrialConfig, path: Path, record: CertificationRecord) -> bool:
    """Tell whether a table is there, with all the samples, that has this record."""
    if not path.exists():
        return False
    found = read_record(path)
    if found is None:
        raise _refused(path, "nothing beside it says how it was computed")
    if config.execution.chunks_per_batch == "auto":
        # What was found then is what this table has to go on with.
        record = record.model_copy(update={"chunks_per_batch": found.chunks_per_batch})
    goes_on = (
        config.certification.procedure == "anytime"
        and record.estimation_samples > found.estimation_samples
    )
    if goes_on:
        record = record.model_copy(update={"estimation_samples": found.estimation_samples})
    if changes := found.changes(record):
        more = ", …" if len(changes) > _MOST_CHANGES else ""
        raise _refused(path, f"it has {', '.join(changes[:_MOST_CHANGES])}{more}")
    return not goes_on


def _refused(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is of another certification: {why}; give another --out, or --overwrite."
    )
