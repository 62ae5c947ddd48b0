"""The runs of trials and of the undefended classifier in MLflow, read from their folders."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from decrop.config import Settings, TrialConfig
from decrop.evaluation.escaping import markdown_text
from decrop.evaluation.record import record_path
from decrop.evaluation.table import CertificateTable
from tune.directory import State, SweepTrialFolder, TrialRecord, TrialState
from tune.mlflow.measurements import (
    epoch_times,
    history_measurements,
    objective_measurements,
    report_measurements,
    result_measurements,
    system_measurements,
)
from tune.mlflow.run_view import (
    COLOUR_TAG,
    NOTE_TAG,
    UNDEFENDED_COLOUR,
    Input,
    RunStatus,
    RunView,
    Stamp,
    Table,
    by_name,
    error_note,
    existing,
    is_number,
    made_by,
    modified,
    stamps_of,
    trial_colour,
)
from tune.results.metric import Metric
from tune.space import kind_of

_STATUS: dict[State, RunStatus] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    # Not KILLED, which MLflow shows as a failure.
    "pruned": "FINISHED",
    "failed": "FAILED",
}


@dataclass(frozen=True)
class TrialSource:
    """A folder that becomes a run, its key within the sweep and its name for people.

    Attributes:
        heard: is called with state and result of whatever is read.
        rank: says which rank the trial has, where that is known.
    """

    key: str
    name: str
    kind: Literal["trial", "final", "seed"]
    folder: SweepTrialFolder
    objectives: tuple[Metric, ...] = ()
    heard: Callable[[TrialState, dict[str, Any] | None], None] | None = None
    rank: Callable[[], str] | None = None

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced, or the trial's rank is."""
        stamps = stamps_of({**_documents(self.folder), **_artifacts(self.folder)})
        if stamps and self.rank is not None and (rank := self.rank()):
            stamps[rank] = (0, 0, 0)
        return stamps

    def view(self) -> RunView | None:
        """Read the folder; None while the trial has not started."""
        return _trial_view(self)


@dataclass(frozen=True)
class UndefendedSource:
    """The classifier without a denoiser, as a run; it has the data of the reference trial."""

    folder: SweepTrialFolder
    reference: SweepTrialFolder
    key: str = "undefended"

    def stamps(self) -> dict[str, Stamp]:
        """Return what changes whenever a file that is shown is replaced."""
        return stamps_of({**_documents(self.folder), **_artifacts(self.folder)})

    def view(self) -> RunView | None:
        """Read the folder; None while it has no result."""
        result = self.folder.read_result()
        if result is None:
            return None
        time = modified(self.folder.result_path)
        certificates = _certificates(self.folder)
        reference = self.reference.read_record()
        return RunView(
            name=f"undefended ({result.get('split', '?')})",
            status="FINISHED",
            started=time,
            ended=time,
            tags={
                "kind": "undefended",
                **made_by("sweep"),
                NOTE_TAG: "The classifier without a denoiser, smoothed with the same noise. "
                + certified_sentence(result),
                COLOUR_TAG: UNDEFENDED_COLOUR,
                **_result_tags(result),
                **_samples_tags(self.folder),
            },
            measurements=result_measurements(certificates, result, time),
            artifacts=_artifacts(self.folder),
            tables=_tables(certificates),
            inputs=[]
            if reference is None
            else _inputs(
                reference.config,
                {
                    name: digest
                    for name, digest in _hashes(self.folder.read_inputs(), result).items()
                    if name != "limited_data"
                },
                result["split"],
            ),
        )


def flatten_settings(settings: Settings) -> dict[str, str]:
    """Return every leaf of settings by dotted path; all but strings as JSON."""
    return dict(_leaves("", settings.model_dump(mode="json")))


def _trial_view(source: TrialSource) -> RunView | None:
    folder = source.folder
    record, state = folder.read_record(), folder.read_state()
    if record is None or state is None:
        return None
    history, result, inputs = folder.read_history(), folder.read_result(), folder.read_inputs()
    certificates = _certificates(folder)
    if source.heard is not None:
        source.heard(state, result)
    times = epoch_times(state.started, history)
    measurements = history_measurements(history, times)
    if source.kind == "trial":
        # The one report of a final training is its test score, which the result has too.
        reports = folder.read_reports()
        measurements += report_measurements(reports, times, state.started)
        measurements += objective_measurements(folder, source.objectives, reports, times, state)
    if result is not None:
        measurements += result_measurements(certificates, result, state.ended or state.started)
    measurements += system_measurements(folder, state.started)
    row = record.name if source.kind == "trial" else f"{record.name} (test)"
    return RunView(
        name=source.name if record.row is None else row,
        status=_STATUS[state.state],
        started=state.started,
        ended=state.ended,
        parameters=flatten_settings(record.config),
        tags={
            "kind": source.kind,
            **({} if record.row is None else {"row": record.row}),
            "state": state.state,
            "reference": json.dumps(record.reference),
            "pruned": json.dumps(state.state == "pruned"),
            NOTE_TAG: _note(source, record, state, result),
            COLOUR_TAG: trial_colour(record.number),
            **_hash_tags(inputs),
            **_code_tags(folder),
            **_samples_tags(folder),
            **({} if result is None else _result_tags(result)),
        },
        measurements=measurements,
        artifacts=_artifacts(folder),
        tables=_tables(certificates),
        inputs=_inputs(
            record.config,
            _hashes(inputs, result),
            "held_out" if source.kind == "trial" else "test",
        ),
    )


_STATES: dict[State, str] = {
    "running": "it runs",
    "complete": "complete",
    "pruned": "pruned, for others had better scores by then",
    "failed": "failed",
}


def _note(
    source: TrialSource, record: TrialRecord, state: TrialState, result: dict[str, Any] | None
) -> str:
    """Describe a run: what it is, its rank, and what it certifies."""
    name = f"trial {record.number}{' (the reference)' if record.reference else ''}"
    settings = name if record.row is None else f"row {markdown_text(record.row)}"
    if source.kind == "trial":
        what = f"{settings[0].upper()}{settings[1:]}, scored on held-out images"
    else:
        seed = f" from seed {record.config.seed}" if source.kind == "seed" else ""
        again = "trained again on all limited data" if record.config.trains_again_for_test else ""
        does = f"{again}{seed}{' and ' if again or seed else ''}certified on test images"
        what = f"The settings of {settings}, {does}"
    rank = "" if source.rank is None else source.rank()
    sentences = [f"{what}: {_STATES[state.state]}{f'; {rank}' if rank else ''}."]
    if result is not None:
        sentences.append(certified_sentence(result))
    return "\n\n".join(filter(None, [" ".join(sentences), error_note(state.error)]))


def certified_sentence(result: Mapping[str, Any]) -> str:
    """Say what a result certifies, with the number of images and their split, if anything."""
    if not result.get("certified_accuracy"):
        return ""
    accuracies = ", ".join(
        f"{100 * share:.1f} % at r = {float(radius):g}"
        for radius, share in result["certified_accuracy"].items()
    )
    split = str(result.get("split", "?")).replace("_", "-")
    average = result.get("average_certified_radius")
    mean = f"; average certified radius {average:.3f}" if is_number(average) else ""
    return f"Certified accuracy on {result.get('images', '?')} {split} images: {accuracies}{mean}."


def _result_tags(result: dict[str, Any]) -> dict[str, str]:
    tags = {name: str(result[name]) for name in ("split", "precision") if name in result}
    return tags | _hash_tags(result.get("hashes", {}))


def _hash_tags(hashes: Mapping[str, str]) -> dict[str, str]:
    return {f"hash.{name}": value for name, value in hashes.items()}


def _code_tags(folder: SweepTrialFolder) -> dict[str, str]:
    code = folder.read_code()
    if code is None:
        return {}
    tags = {
        "decrop.version": code.version,
        "decrop.host": code.host,
        **made_by("sweep"),
    }
    return tags if code.commit is None else {**tags, "mlflow.source.git.commit": code.commit}


def _samples_tags(folder: SweepTrialFolder) -> dict[str, str]:
    samples = folder.read_samples()
    return {"decrop.samples": json.dumps(samples)} if samples else {}


def _hashes(inputs: Mapping[str, str], result: dict[str, Any] | None) -> dict[str, str]:
    hashes: dict[str, str] = {} if result is None else result.get("hashes", {})
    return {**inputs, **hashes}


def _inputs(config: TrialConfig, hashes: Mapping[str, str], split: str) -> list[Input]:
    """List what a run worked on, as far as the hashes of its contents are known."""
    dataset, classifier = config.dataset, config.classifier
    data_source = dataset.path or dataset.name
    network = classifier.weights or classifier.source
    named = {
        "training_images": (f"{dataset.name}: training images", data_source, "training"),
        "limited_data": (f"{dataset.name}: limited data", data_source, "training"),
        "certified_images": (f"{dataset.name}: {split} images", data_source, "certification"),
        "classifier": (
            f"classifier: {PurePath(network).name}",
            network,
            kind_of(config).classifier,
        ),
    }
    return [
        Input(name=name, digest=hashes[key], source=source, context=context)
        for key, (name, source, context) in named.items()
        if key in hashes
    ]


def _certificates(folder: SweepTrialFolder) -> CertificateTable | None:
    path = folder.certificates_path
    return CertificateTable.read_tsv(path) if path.exists() else None


def _tables(certificates: CertificateTable | None) -> dict[str, Table]:
    return {} if certificates is None else {"certificates.json": Table.of(certificates)}


def _documents(folder: SweepTrialFolder) -> dict[str, Path]:
    return by_name(
        folder.state_path,
        folder.history_path,
        folder.reports_path,
        folder.result_path,
        folder.code_path,
        folder.inputs_path,
        folder.system_path,
        folder.samples_path,
    )


def _artifacts(folder: SweepTrialFolder) -> dict[str, Path]:
    certificates = folder.certificates_path
    files = by_name(
        folder.record_path, certificates, record_path(certificates), folder.denoiser_path
    )
    # Of further sigmas.
    for path in sorted(certificates.parent.glob(f"{certificates.stem}_*")):
        files[path.name] = path
    for path in sorted(folder.classifier_path.glob("*")):
        files[f"{folder.classifier_path.name}/{path.name}"] = path
    figures = {f"figures/{path.name}": path for path in sorted(folder.figures_path.glob("*.png"))}
    return {**existing(files), **figures}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)
