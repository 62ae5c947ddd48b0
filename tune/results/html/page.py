"""The page of a sweep that has ended: its leaderboard's figures, charts, images and settings."""

import base64
import gzip
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from decrop.bundle import read_certificates
from decrop.bundle.export import recorded_settings
from decrop.bundle.usage import imported_code, load_call, verify_command
from decrop.config import TrialConfig
from decrop.documents import get_dotted
from decrop.errors import InputError
from decrop.files import write_text
from decrop.trial.result import radius_key
from decrop.wording import counted
from tune.directory import SweepDirectory, SweepRecord, SweepTrialFolder
from tune.finished_trials import finished_trials
from tune.results.board import Entry, Leaderboard
from tune.results.html.certificate_charts import accuracy_chart, losses_chart, probability_chart
from tune.results.html.certified_images import CertifiedImages, read_certified_images
from tune.results.html.charts import NEUTRAL, Chart, Shown
from tune.results.html.search_charts import (
    MOST_TRIALS,
    front_charts,
    history_chart,
    importances_chart,
    parallel_chart,
)
from tune.results.leaderboard import read_leaderboard
from tune.results.paired import read_final
from tune.results.ranking import held_out_results
from tune.results.tables import (
    UNDEFENDED,
    TextTable,
    denoiser_name,
    headline_radius,
    leaderboard_tables,
)
from tune.space import objectives_of, sweep_kind, total_trials, varied_paths
from tune.study import parameter_importances
from tune.trust import resume_command

# Curves of more would hide each other; all are in the tables.
_MOST_CURVES = 12
_MOST_NAMED_PATHS = 3


@dataclass(frozen=True)
class _Certified:
    """An entry of the leaderboard with its folder."""

    entry: Entry
    name: str
    key: str
    folder: SweepTrialFolder


def write_page(directory: SweepDirectory, path: Path, *, trust_code: bool = False) -> str:
    """Write the page of a sweep that has ended, and return what it misses, if anything.

    Args:
        trust_code: whether code that the directory names for its denoiser may be imported.
    """
    board = read_leaderboard(directory)
    if board is None:
        raise InputError(
            f"{directory.path} has no leaderboard yet; let the sweep end, or go on with "
            f"`{resume_command(directory)}`."
        )
    certified = _certified(directory, board)
    record = directory.read_record()
    shown = [_shown(directory, position, one) for position, one in enumerate(certified)]
    best = certified[0]
    config = _config(directory, best)
    images = read_certified_images(
        config, best.folder, {one.key: one.table for one in shown}, trust_code=trust_code
    )
    write_text(path, _html(directory, record, board, certified, shown, images, config))
    return images.missing


def _certified(directory: SweepDirectory, board: Leaderboard) -> list[_Certified]:
    entries = board.entries[:_MOST_CURVES]
    if board.reference is not None and board.reference not in entries:
        entries = [*entries, board.reference]
    found = []
    for entry in [*entries, *([] if board.undefended is None else [board.undefended])]:
        number = entry.number
        name = denoiser_name(number, entry.name)
        folder = directory.undefended if number is None else directory.final(number)
        key = UNDEFENDED if number is None else str(number)
        found.append(_Certified(entry, name, key.replace(" ", "-"), folder))
    return found


def _shown(directory: SweepDirectory, position: int, one: _Certified) -> Shown:
    number = one.entry.number
    return Shown(
        key=one.key,
        name=one.name,
        colour=NEUTRAL if number is None else position,
        table=read_final(directory, number),
        history=one.folder.read_history() if number is not None else (),
    )


def _config(directory: SweepDirectory, one: _Certified) -> TrialConfig:
    number = one.entry.number
    assert number is not None  # the best is a trial
    record = directory.trial(number).read_record() or one.folder.read_record()
    if record is None:
        raise InputError(f"{directory.trial(number).record_path} is missing; restore it.")
    return record.config


def _html(
    directory: SweepDirectory,
    record: SweepRecord,
    board: Leaderboard,
    certified: Sequence[_Certified],
    shown: Sequence[Shown],
    images: CertifiedImages,
    config: TrialConfig,
) -> str:
    ranks, accuracies, *others = leaderboard_tables(board)
    kind, own = sweep_kind(record.sweep), _portable(directory, config)
    search = list(_search_charts(directory, record, board, shown))
    on_test = [accuracy_chart(shown), probability_chart(shown)]
    charts = {
        "certificates": [chart for chart in on_test if chart is not None],
        "search": search,
        "losses": [chart for chart in [losses_chart(shown)] if chart is not None],
    }
    script = _resource("page.js")
    library, packed = _plotly()
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_resource("page.html.jinja")).render(
        title=record.name,
        description=record.sweep.description,
        created=f"{record.created:%Y-%m-%d %H:%M} UTC",
        asked=_asked(record, board, config),
        won=_won(board, config),
        summary=board.summary,
        kind=kind.trains,
        certified=certified,
        colours={one.key: one.colour for one in shown},
        charts=charts,
        figures={chart.id: chart.figure() for found in charts.values() for chart in found},
        accuracies=accuracies,
        ranks=TextTable(ranks.caption, ranks.head, ranks.rows[:MOST_TRIALS]),
        finished=len(board.held_out),
        rank_numbers=[row.number for row in board.held_out],
        others=others,
        images=images,
        costs=_costs(directory, board),
        settings=_settings(directory, record, certified),
        best_name=certified[0].name,
        best_settings=yaml.safe_dump(recorded_settings(own), sort_keys=False, allow_unicode=True),
        space={p: d.model_dump_json(exclude_defaults=True) for p, d in record.sweep.space.items()},
        **_usage(directory, own),
        style=Markup(_resource("page.css")),
        script=Markup(script),
        plotly=Markup(packed),
        policy=_policy(script, library),
    )


@cache
def _plotly() -> tuple[str, str]:
    """Return plotly.js, and as it lies in the page: base64 of its gzip."""
    library = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    packed = gzip.compress(library.encode(), mtime=0)
    return library, base64.b64encode(packed).decode()


def _policy(*scripts: str) -> str:
    """Return what the page may do: run these scripts, show what it holds, and ask no network."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    ]
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return (files("tune.results.html") / name).read_text(encoding="utf-8")


def _asked(record: SweepRecord, board: Leaderboard, config: TrialConfig) -> str:
    """Say in one sentence what the sweep was asked."""
    sweep = record.sweep
    where = f"held-out images of {config.dataset.name} at σ\u00a0=\u00a0{config.sigma:g}"
    if sweep.search == "rows":
        return (
            f"The sweep asked how {counted(len(sweep.rows), 'row')} of settings compare on {where}."
        )
    paths = varied_paths(sweep)
    named = ", ".join(paths[:_MOST_NAMED_PATHS])
    if len(paths) > _MOST_NAMED_PATHS:
        named += f" and {len(paths) - _MOST_NAMED_PATHS} more"
    objectives = objectives_of(sweep)
    aims = " and ".join(f"{'least' if m.minimised else 'largest'} {m.phrase}" for m in objectives)
    return (
        f"The sweep asked which settings give the {aims} on {where}: "
        f"{counted(total_trials(sweep), 'trial')}, {len(board.held_out)} of them finished, by "
        f"search {sweep.search} over {named}."
    )


def _won(board: Leaderboard, config: TrialConfig) -> str:
    """Say in one sentence what won, with what it certifies."""
    best, metric = board.best, board.metric
    radius = headline_radius(board.radii, metric)
    key = radius_key(radius)

    def on_test(entry: Entry) -> str:
        accuracy = entry.result["certified_accuracy"][key]
        low, high = entry.intervals[key]
        return f"{100 * accuracy:.1f} % ({100 * low:.1f}–{100 * high:.1f})"

    others = [
        f"{name} {on_test(entry)}"
        for name, entry in (("the reference", board.reference), (UNDEFENDED, board.undefended))
        if entry is not None and entry.number != best.number
    ]
    name = denoiser_name(best.number, best.name)
    score = "" if best.held_out_score is None else f" {metric.text(best.held_out_score)}"
    beside = f"; {' and '.join(others)}" if others else ""
    return (
        f"{name[0].upper()}{name[1:]} won, with {metric.phrase}{score} held out: of "
        f"{counted(best.result['images'], 'test image')} it certifies {on_test(best)} at r = "
        f"{radius:g}{beside}."
    )


def _search_charts(
    directory: SweepDirectory, record: SweepRecord, board: Leaderboard, shown: Sequence[Shown]
) -> Iterator[Chart]:
    """Yield the charts of the search, as far as there are enough trials that differ."""
    if record.sweep.search == "rows":
        return
    past, _ = finished_trials(directory)
    objectives = objectives_of(record.sweep)
    names = {row.number: denoiser_name(row.number, row.name) for row in board.held_out}
    history = history_chart(past, objectives[0], names)
    if history is not None:
        yield history
    importances = parameter_importances(past, record.sweep.space)
    if importances is not None:
        yield importances_chart(importances)
    certified = {int(one.key): one for one in shown if one.key.isdecimal()}
    parallel = parallel_chart(
        past, record.sweep.space, objectives[0].phrase, names, certified, importances
    )
    if parallel is not None:
        yield parallel
    yield from front_charts(held_out_results(directory), objectives, names)


def _costs(directory: SweepDirectory, board: Leaderboard) -> TextTable:
    """Tabulate noisy samples and hours of trials, final trainings and no denoiser."""
    parts: list[tuple[str, list[SweepTrialFolder]]] = [
        ("trials", [directory.trial(number) for number in directory.trial_numbers()]),
        ("final trainings", [directory.final(number) for number in directory.final_numbers()]),
    ]
    if board.undefended is not None:
        parts.append((UNDEFENDED, [directory.undefended]))
    rows, all_samples, all_hours = [], 0, 0.0
    for name, folders in parts:
        samples = sum(map(_samples, folders))
        hours = sum(map(_seconds, folders)) / 3600
        all_samples, all_hours = all_samples + samples, all_hours + hours
        rows.append([name, str(len(folders)), f"{samples:,}", f"{hours:.3f}"])
    rows.append(["together", "", f"{all_samples:,}", f"{all_hours:.3f}"])
    return TextTable(
        "Noisy samples through classifier and denoiser for certificates, and hours from start to "
        "end of each, added up: those that ran side by side count in full.",
        ["part", "number", "noisy samples", "hours"],
        rows,
    )


def _samples(folder: SweepTrialFolder) -> int:
    return sum(sum(by_role.values()) for by_role in folder.read_samples().values())


def _seconds(folder: SweepTrialFolder) -> float:
    state = folder.read_state()
    if state is not None and state.ended is not None:
        return (state.ended - state.started).total_seconds()
    result = folder.result
    return 0.0 if result is None else result.seconds.get("certification", 0.0)


def _settings(
    directory: SweepDirectory, record: SweepRecord, certified: Sequence[_Certified]
) -> TextTable:
    """Tabulate the settings that the sweep varies, of what is certified."""
    trials = [one for one in certified if one.entry.number is not None]
    documents = [_config(directory, one).model_dump(mode="json") for one in trials]
    return TextTable(
        "What the sweep varies, of the certified.",
        ["setting", *(one.name for one in trials)],
        [
            [path, *(_setting(document, path) for document in documents)]
            for path in varied_paths(record.sweep)
        ],
    )


def _setting(document: Mapping[str, Any], path: str) -> str:
    try:
        value = get_dotted(document, path)
    except (InputError, KeyError):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _portable(directory: SweepDirectory, config: TrialConfig) -> TrialConfig:
    """Return the best's settings, as its bundle has them: without paths of this machine."""
    try:
        return read_certificates(directory.bundle_path)[0]
    except InputError:
        own = config.dataset.model_copy(update={"path": None})
        return config.model_copy(update={"dataset": own})


def _usage(directory: SweepDirectory, config: TrialConfig) -> dict[str, Any]:
    """Return how the best is exported, verified and opened."""
    bundle, with_classifier = "my-denoiser", config.classifier.asked is None
    export = f"decrop export {shlex.quote(directory.path.name)} --to {bundle}"
    trust = " --trust-code" if imported_code(config) else ""
    return {
        "commands": [
            f"{export}{trust}",
            verify_command(config, bundle, with_classifier=with_classifier),
        ],
        "load": load_call(config, bundle, with_classifier=with_classifier),
    }
