"""Export of a sweep's trial as a bundle."""

from pathlib import Path

from decrop.bundle import export_bundle
from decrop.classifiers.storage import load_stored_classifier
from decrop.errors import InputError
from decrop.evaluation.escaping import markdown_text
from decrop.wording import counted
from tune.directory import SweepDirectory, TrialRecord
from tune.results.ranking import REFERENCE, ranking, sweep_metric
from tune.space import kind_of, reference_words


def best_trial(directory: SweepDirectory) -> int:
    """Return the trial with the best held-out score."""
    scores = ranking(directory)
    if not scores:
        raise InputError(f"{directory.path} has no finished trial to export.")
    return next(iter(scores))


def trial_number(directory: SweepDirectory, trial: str, *, source: str) -> int:
    """Return the number of a trial: of the `best`, of a number, or of a row by its name.

    `source` is what was given, for the message.
    """
    if trial == "best":
        return best_trial(directory)
    for number in directory.trial_numbers():
        record = directory.trial(number).read_record()
        if record is not None and record.row is not None and trial == record.name:
            return number
    if not trial.isdecimal():
        raise InputError(f"{source}: give best, a trial's number or a row's name.")
    return int(trial)


def export_trial(
    directory: SweepDirectory,
    number: int,
    destination: Path,
    *,
    with_classifier: bool = True,
    onnx: bool = False,
    torch_export: bool = False,
    license_id: str = "unknown",
    trust_code: bool = False,
) -> None:
    """Export a trial: trained on the whole limited data if it was chosen, else as it was ranked.

    The options are those of `decrop.bundle.export_bundle`; `trust_code` says whether the function
    or model that the directory names for its classifier or denoiser may be imported.

    Raises:
        RunError: the exported program computes something else than the denoiser.
    """
    scores = ranking(directory)
    if number not in scores:
        finished = ", ".join(str(n) for n in sorted(scores)) or "none"
        raise InputError(f"--trial {number}: not a finished trial; finished are {finished}.")
    record = directory.trial(number).read_record()
    final = directory.final(number)
    folder = final if final.result_path.exists() else directory.trial(number)
    result = folder.read_result()
    if record is None or result is None:
        raise InputError(f"{folder.path} has no trial.json or no result.json.")
    if folder is not final and "surrogate" in result["hashes"]:
        raise InputError(
            f"--trial {number}: its certificates are of the surrogate, not of the endpoint; only "
            "trials that are certified on test images can be exported (decrop leaderboard --top)."
        )
    stored = directory.classifier_path(result["hashes"]["classifier"])
    if kind_of(record.config).classifier == "trained":
        stored = folder.classifier_path
    # An endpoint is described, not asked.
    endpoint = record.config.classifier.source if record.config.classifier.asked else None
    classifier, class_names = load_stored_classifier(stored, given=endpoint, trust_code=trust_code)
    export_bundle(
        folder,
        classifier,
        class_names,
        destination,
        origin=_origin(directory, record, certified_on_test=folder is final),
        with_classifier=with_classifier,
        onnx=onnx,
        torch_export=torch_export,
        license_id=license_id,
        trust_code=trust_code,
    )


def _origin(directory: SweepDirectory, record: TrialRecord, *, certified_on_test: bool) -> str:
    """Say for the model card which trial it is, and how it was ranked and trained."""
    metric = sweep_metric(directory)
    scores = ranking(directory, metric)
    named = "" if record.row is None else f" (row {markdown_text(record.name)} of its table)"
    if record.number == REFERENCE:
        named = named or f" (the reference, {reference_words(record.config)})"
    name = markdown_text(f"“{directory.read_record().name}”")
    origin = (
        f"Trial {record.number} of the sweep {name}{named}, rank "
        f"{list(scores).index(record.number) + 1} of {counted(len(scores), 'finished trial')} by "
        f"{metric.phrase} on held-out images ({metric.text(scores[record.number])})."
    )
    if not certified_on_test:
        return origin
    if record.config.trains_again_for_test:
        return f"{origin} Trained once more on the whole limited data before it was certified."
    return f"{origin} Certified on test images as it was trained, without the held-out ones."
