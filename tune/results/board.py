"""The leaderboard: what a sweep found on held-out images, and what is certified of it on test."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from decrop.errors import InputError
from decrop.evaluation.accuracy import exact_interval
from decrop.evaluation.plots import certificates_figure
from decrop.evaluation.table import CertificateTable, Shares
from decrop.files import read_json, write_json, write_text
from decrop.trial.folder import save_figure
from decrop.trial.result import TrialResult, radius_key
from tune.directory import SweepDirectory, SweepTrialFolder
from tune.results.paired import (
    Comparisons,
    compare_with_both,
    differences,
    held_out_record,
    read_final,
)
from tune.results.ranking import (
    REFERENCE,
    Metric,
    chosen,
    held_out_results,
    metric_named,
    ranking,
    sweep_metric,
)
from tune.results.seed_average import SettingsEntry, read_settings_entries
from tune.results.wording import (
    denoiser_name,
    leaderboard_markdown,
    summary_of,
    surrogate_sentences,
)


@dataclass(frozen=True)
class HeldOut:
    """A finished trial by its held-out score.

    Attributes:
        number: of the trial.
        rank: among the finished trials.
        score: by which they are ranked.
        average_certified_radius: on held-out images.
        certified_accuracy: on held-out images, by radius.
        certified: whether it is also certified on the test split.
        name: of the trial's row, where the sweep is a table, or of a trial without a denoiser.
        measured_otherwise: settings in which its score differs from trial 0's; empty if in none.
    """

    number: int
    rank: int
    score: float
    average_certified_radius: float
    certified_accuracy: dict[str, float]
    certified: bool
    name: str | None = None
    measured_otherwise: str = ""


@dataclass(frozen=True)
class Entry:
    """A denoiser, or a classifier without one, on the test split.

    Attributes:
        number: of the trial; None for the undefended classifier.
        rank: by held-out score among complete trials; None for the undefended classifier.
        held_out_score: by which trials are ranked.
        result: on the test split.
        shares: of test images certified correct, misclassified, and neither.
        intervals: exact 95 % intervals of the certified accuracies, by radius.
        against_reference: compared with trial 0, by radius.
        against_undefended: compared with no denoiser, by radius.
        name: of the trial's row, where the sweep is a table.
        trains_classifier: whether the trial trains its classifier and has no denoiser.
        measured_otherwise: settings in which certificates differ from trial 0's; empty if in none.
    """

    number: int | None
    rank: int | None
    held_out_score: float | None
    result: dict[str, Any]
    shares: Shares
    intervals: dict[str, tuple[float, float]]
    against_reference: Comparisons | None
    against_undefended: Comparisons | None
    name: str | None = None
    trains_classifier: bool = False
    measured_otherwise: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """The outcome of a sweep.

    Attributes:
        radii: at which certified accuracy is reported.
        by: name of the held-out metric that decides on ranks.
        held_out: all finished trials by rank.
        entries: the certified ones by rank.
        undefended: the classifier without a denoiser; None where the reference trains its own.
        summary: sentences that compare the best with trial 0 and with no denoiser.
        settings: of the same trials over several seeds; empty where there is one.
        agreement: where held-out scores are through a surrogate and test certificates are a black
            box's own, the share of held-out images on which both agree; else None.
    """

    radii: tuple[float, ...]
    by: str
    held_out: list[HeldOut]
    entries: list[Entry]
    undefended: Entry | None
    summary: str
    settings: list[SettingsEntry] = field(default_factory=list)
    agreement: float | None = None

    @property
    def metric(self) -> Metric:
        """The held-out metric that decides on ranks."""
        return metric_named(self.by, self.radii, source="by")

    @property
    def best(self) -> Entry:
        """Rank 1 by held-out score among the certified, whatever the test split shows."""
        return self.entries[0]

    @property
    def reference(self) -> Entry | None:
        """Trial 0, the paper's choice or a table's reference; None if it failed."""
        return next((entry for entry in self.entries if entry.number == REFERENCE), None)


def build_leaderboard(
    directory: SweepDirectory,
    radii: tuple[float, ...],
    *,
    metric: Metric | None = None,
    top: int | None = None,
    seeds: int = 1,
) -> Leaderboard:
    """Rank the finished trials, and compare the first that were certified on the test split.

    Every comparison is paired over the same images; p-values are Holm-adjusted over all trials,
    opponents and radii. Ranks and who is compared come from held-out images.

    Args:
        directory: of the sweep.
        radii: at which certified accuracy is reported.
        metric: of the held-out score; the sweep's own if not given.
        top: how many of the best are compared beside trial 0; all that are certified if not given.
        seeds: compares settings over seeds 0 to `seeds` - 1 too, where there are several.

    Raises:
        InputError: nothing is certified on the test split.
    """
    metric = metric or sweep_metric(directory)
    scores = ranking(directory, metric)
    rank = {number: position for position, (number, _) in enumerate(scores, start=1)}
    names = {number: _row_name(directory, number) for number in rank}
    compared = chosen(scores, len(scores) if top is None else top)
    numbers = [n for n in compared if directory.final(n).result_path.exists()]
    if not numbers:
        raise InputError(f"{directory.path} has none of its best trials certified on test images.")
    tables = {n: read_final(directory, n) for n in numbers}
    undefended = directory.undefended
    bare = read_final(directory, None) if undefended.result_path.exists() else None
    against_reference, against_undefended = compare_with_both(
        {n: {0: table} for n, table in tables.items()}, radii, bare=bare
    )
    yardstick = tables.get(REFERENCE) or bare or tables[numbers[0]]
    entries = [
        _entry(
            directory.final(number),
            tables[number],
            yardstick,
            radii,
            number=number,
            rank=rank[number],
            held_out_score=dict(scores)[number],
            against_reference=against_reference.get(number),
            against_undefended=against_undefended.get(number),
            name=names[number],
            trains_classifier=_trains_classifier(directory, number),
        )
        for number in numbers
    ]
    settings = []
    if seeds > 1:
        compared_names = {number: names[number] for number in numbers}
        settings = read_settings_entries(directory, compared_names, radii, bare=bare, seeds=seeds)
    agreement = entries[0].result.get("agreement")
    return Leaderboard(
        radii=radii,
        by=metric.name,
        held_out=held_out_ranking(directory, scores),
        entries=entries,
        undefended=None if bare is None else _entry(undefended, bare, yardstick, radii),
        summary=" ".join(
            [
                summary_of(_spoken_of(entries[0], settings), radii, metric),
                *surrogate_sentences(agreement),
            ]
        ),
        settings=settings,
        agreement=agreement,
    )


def held_out_ranking(directory: SweepDirectory, scores: list[tuple[int, float]]) -> list[HeldOut]:
    """Return the finished trials by rank, whose numbers and scores are given in that order."""
    results = held_out_results(directory)
    records = {number: held_out_record(directory, number) for number, _ in scores}
    yardstick = records.get(REFERENCE) or next(iter(records.values()), None)
    return [
        HeldOut(
            number=number,
            rank=rank,
            score=score,
            average_certified_radius=results[number]["average_certified_radius"],
            certified_accuracy=results[number]["certified_accuracy"],
            certified=directory.final(number).result_path.exists(),
            name=_row_name(directory, number),
            measured_otherwise=differences(records[number], yardstick),
        )
        for rank, (number, score) in enumerate(scores, start=1)
    ]


def write_leaderboard(directory: SweepDirectory, leaderboard: Leaderboard) -> None:
    """Write a figure of all rows, `leaderboard.md` and, last, `leaderboard.json`."""
    entries = [*leaderboard.entries]
    if leaderboard.undefended is not None:
        entries.append(leaderboard.undefended)
    figure = certificates_figure(
        {
            denoiser_name(entry.number, entry.name): read_final(directory, entry.number)
            for entry in entries
        }
    )
    save_figure(figure, directory.accuracy_figure_path)
    write_text(directory.leaderboard_markdown_path, leaderboard_markdown(leaderboard))
    write_json(directory.leaderboard_json_path, asdict(leaderboard))


def recorded_best(directory: SweepDirectory) -> int | None:
    """Return the best trial of the leaderboard that was written, None if there is none yet."""
    if not directory.leaderboard_json_path.exists():
        return None
    return int(read_json(directory.leaderboard_json_path)["entries"][0]["number"])


def _row_name(directory: SweepDirectory, number: int) -> str | None:
    record = directory.trial(number).read_record()
    if record is None or (record.row is None and not record.config.trains_classifier):
        return None
    return record.name


def _trains_classifier(directory: SweepDirectory, number: int) -> bool:
    record = directory.trial(number).read_record()
    return record is not None and record.config.trains_classifier


def _spoken_of(best: Entry, settings: Sequence[SettingsEntry]) -> Entry | SettingsEntry:
    """Return the settings of the best where each comparison is over several seeds, else itself."""
    for entry in settings:
        by_opponent = [entry.against_reference or {}, entry.against_undefended or {}]
        runs = [comparison.runs for by in by_opponent for comparison in by.values()]
        if entry.number == best.number and min(runs, default=1) > 1:
            return entry
    return best


def _entry(
    folder: SweepTrialFolder,
    table: CertificateTable,
    yardstick: CertificateTable,
    radii: tuple[float, ...],
    *,
    number: int | None = None,
    rank: int | None = None,
    held_out_score: float | None = None,
    against_reference: Comparisons | None = None,
    against_undefended: Comparisons | None = None,
    name: str | None = None,
    trains_classifier: bool = False,
) -> Entry:
    document = read_json(folder.result_path)
    scores = TrialResult.from_json(document).scores
    intervals = {
        radius_key(radius): exact_interval(
            round(scores.certified_accuracy[radius_key(radius)] * scores.images), scores.images
        )
        for radius in radii
    }
    return Entry(
        number=number,
        rank=rank,
        held_out_score=held_out_score,
        result=document,
        shares=table.shares,
        intervals={radius: (float(low), float(high)) for radius, (low, high) in intervals.items()},
        against_reference=against_reference,
        against_undefended=against_undefended,
        name=name,
        trains_classifier=trains_classifier,
        measured_otherwise=differences(table.record, yardstick.record),
    )
