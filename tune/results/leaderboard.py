"""Build the leaderboard of a sweep from its files, write it and read it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json, write_text
from decrop.trial.folder import save_figure
from tune.directory import SweepDirectory, read_record
from tune.results.board import Entry, HeldOut, Leaderboard, SettingsEntry, Spread
from tune.results.metric import Metric, pareto_front
from tune.results.paired import (
    ComparedTrials,
    Row,
    differences,
    held_out_record,
    read_final,
)
from tune.results.ranking import (
    REFERENCE,
    certified_radii,
    chosen,
    held_out_results,
    objective_values,
    ranking,
    sweep_metric,
)
from tune.results.tables import (
    UNDEFENDED,
    TextTable,
    accuracy_table,
    denoiser_name,
    held_out_table,
    leaderboard_markdown,
    pretraining_sentences,
    summary_of,
    surrogate_sentences,
)
from tune.space import DENOISER_TRIALS, kind_of, objectives_of
from tune.trust import resume_command


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
    opponents and radii. Ranks and which trials are compared come from held-out images.

    Args:
        radii: at which certified accuracy is reported.
        metric: of the held-out score; the sweep's own if not given.
        top: how many of the best are compared beside trial 0; all that are certified if not given.
        seeds: compares settings over seeds 0 to `seeds` - 1 too, where there are several.
    """
    metric = metric or sweep_metric(directory)
    held_out = held_out_ranking(directory, metric)
    ranked = {row.number: row for row in held_out}
    compared = chosen(list(ranked), len(ranked) if top is None else top)
    numbers = [number for number in compared if ranked[number].certified]
    if not numbers:
        raise InputError(f"{directory.path} has none of its best trials certified on test images.")
    rows = {
        n: Row(denoiser_name(n, ranked[n].name), {None: read_final(directory, n)}) for n in numbers
    }
    bare = None
    if directory.undefended.result_path.exists():
        bare = Row(UNDEFENDED, {None: read_final(directory, None)})
    against = ComparedTrials.of(rows, bare, radii)
    yardstick = rows.get(REFERENCE) or bare or rows[numbers[0]]
    entries = [
        _entry(directory, rows[number], yardstick, radii, ranked[number], against)
        for number in numbers
    ]
    settings = []
    if seeds > 1:
        names = {number: ranked[number].name for number in numbers}
        settings = _over_seeds(directory, names, radii, bare, seeds)
    agreement = entries[0].result.get("agreement")
    said = summary_of(_spoken_of(entries[0], settings), radii, metric)
    return Leaderboard(
        radii=radii,
        by=metric.name,
        held_out=held_out,
        entries=entries,
        undefended=None if bare is None else _entry(directory, bare, yardstick, radii),
        summary=" ".join(
            [
                said,
                *surrogate_sentences(agreement),
                *pretraining_sentences(_pretrained(directory, numbers)),
            ]
        ),
        settings=settings,
        agreement=agreement,
    )


def held_out_ranking(directory: SweepDirectory, metric: Metric) -> list[HeldOut]:
    """Return the finished trials by rank."""
    scores = ranking(directory, metric)
    results = held_out_results(directory)
    objectives = objectives_of(directory.read_record().sweep)
    values: dict[int, tuple[float, ...]] = {}
    if len(objectives) > 1:
        values = objective_values(directory)
    front = set(pareto_front(values, objectives))
    measured = {number: held_out_record(directory, number) for number in scores}
    yardstick = measured.get(REFERENCE) or next(iter(measured.values()), None)
    return [
        HeldOut(
            number=number,
            rank=rank,
            score=score,
            average_certified_radius=results[number]["average_certified_radius"],
            certified_accuracy=results[number]["certified_accuracy"],
            certified=directory.final(number).result_path.exists(),
            name=_row_name(directory, number),
            measured_otherwise=differences(measured[number], yardstick),
            objectives=dict(
                zip([metric.name for metric in objectives], values.get(number, ()), strict=False)
            ),
            on_front=number in front,
        )
        for rank, (number, score) in enumerate(scores.items(), start=1)
    ]


def interim_tables(directory: SweepDirectory, *, decimals: int = 1) -> list[TextTable]:
    """Tabulate what a stopped sweep has found: finished trials, and what is certified of them.

    None where no trial has finished; `decimals` are of the ends of intervals in %.
    """
    metric = sweep_metric(directory)
    rows = held_out_ranking(directory, metric)
    if not rows:
        return []
    radii = certified_radii(directory)
    through_surrogate = "surrogate" in directory.trial(rows[0].number).read_inputs()
    kind = DENOISER_TRIALS
    if (reference := directory.trial(REFERENCE).read_record()) is not None:
        kind = kind_of(reference.config)
    tables = [held_out_table(rows, radii, metric, kind.trains, through_surrogate=through_surrogate)]
    top = directory.read_record().sweep.leaderboard.top
    certified = {row.number for row in rows if row.certified}
    if certified & set(chosen([row.number for row in rows], top)) and (
        directory.undefended.result_path.exists() or not kind.certifies_undefended
    ):
        board = build_leaderboard(directory, radii, metric=metric, top=top)
        tables.append(accuracy_table(board, decimals=decimals))
    return tables


def write_leaderboard(directory: SweepDirectory, leaderboard: Leaderboard) -> None:
    """Write a figure of all rows, `leaderboard.md` and, last, `leaderboard.json`."""
    # A sweep needs no matplotlib until its end.
    from decrop.evaluation.plots import certificates_figure

    entries = [*leaderboard.entries]
    if leaderboard.undefended is not None:
        entries.append(leaderboard.undefended)
    tables = {
        denoiser_name(entry.number, entry.name): read_final(directory, entry.number)
        for entry in entries
    }
    save_figure(certificates_figure(tables), directory.accuracy_figure_path)
    write_text(directory.leaderboard_markdown_path, leaderboard_markdown(leaderboard))
    write_json(directory.leaderboard_json_path, asdict(leaderboard))


def read_leaderboard(directory: SweepDirectory) -> Leaderboard | None:
    """Read `leaderboard.json`, None if absent."""
    try:
        return read_record(directory.leaderboard_json_path, Leaderboard)
    except InputError as error:
        raise InputError(f"{error} `{resume_command(directory)}` writes it anew.") from None


def _entry(
    directory: SweepDirectory,
    row: Row,
    yardstick: Row,
    radii: tuple[float, ...],
    ranked: HeldOut | None = None,
    against: ComparedTrials | None = None,
) -> Entry:
    """Return the entry of a trial, or of no denoiser where there is no rank."""
    undefended = Entry(
        number=None,
        rank=None,
        held_out_score=None,
        result=read_json(
            (directory.final(ranked.number) if ranked else directory.undefended).result_path
        ),
        shares=row.tables[0].shares,
        intervals=row.intervals(radii),
        against_reference=None,
        against_undefended=None,
        measured_otherwise=row.measured_otherwise(yardstick),
    )
    if ranked is None or against is None:
        return undefended
    number = ranked.number
    return replace(
        undefended,
        number=number,
        rank=ranked.rank,
        held_out_score=ranked.score,
        against_reference=against.against_reference.get(number),
        against_undefended=against.against_undefended.get(number),
        name=ranked.name,
        trains_classifier=_trains_classifier(directory, number),
    )


def _over_seeds(
    directory: SweepDirectory,
    names: Mapping[int, str | None],
    radii: tuple[float, ...],
    bare: Row | None,
    seeds: int,
) -> list[SettingsEntry]:
    """Compare the settings of trials, given by number with their names, over seeds 0, 1, …"""
    folders = {
        number: {
            seed: folder
            for seed in range(seeds)
            if (folder := directory.retraining(number, seed)).result_path.exists()
        }
        for number in names
    }
    rows = {
        number: Row(
            denoiser_name(number, names[number]),
            {s: CertificateTable.read_tsv(f.certificates_path) for s, f in runs.items()},
        )
        for number, runs in folders.items()
        if runs
    }
    against = ComparedTrials.of(rows, bare, radii)
    return [
        SettingsEntry(
            number=number,
            seeds=tuple(folders[number]),
            certified_accuracy={
                key: Spread.of(values) for key, values in row.certified_accuracy(radii).items()
            },
            average_certified_radius=Spread.of(row.average_certified_radius()),
            clean_accuracy=Spread.of(
                [read_json(f.result_path)["clean_accuracy"] for f in folders[number].values()]
            ),
            against_reference=against.against_reference.get(number),
            against_undefended=against.against_undefended.get(number),
            name=names[number],
        )
        for number, row in rows.items()
    ]


def _spoken_of(best: Entry, settings: Sequence[SettingsEntry]) -> Entry | SettingsEntry:
    """Return the settings of the best where each comparison is over several seeds, else itself."""
    for entry in settings:
        by_opponent = [entry.against_reference or {}, entry.against_undefended or {}]
        runs = [comparison.runs for by in by_opponent for comparison in by.values()]
        if entry.number == best.number and min(runs, default=1) > 1:
            return entry
    return best


def _row_name(directory: SweepDirectory, number: int) -> str | None:
    record = directory.trial(number).read_record()
    if record is None or (record.row is None and record.config.trains == "denoiser"):
        return None
    return record.name


def _pretrained(directory: SweepDirectory, numbers: Sequence[int]) -> dict[int, str]:
    """Return what the denoisers of trials were before their training, where they were trained."""
    records = {number: directory.trial(number).read_record() for number in numbers}
    return {
        number: origin
        for number, record in records.items()
        if record is not None and (origin := record.config.denoiser.pretraining) is not None
    }


def _trains_classifier(directory: SweepDirectory, number: int) -> bool:
    record = directory.trial(number).read_record()
    return record is not None and record.config.trains == "classifier"
