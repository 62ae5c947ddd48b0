"""`decrop train`: one trial, without Ray."""

from pathlib import Path
from typing import Annotated

import typer

from decrop.cli.options import AsJson, Assignments, RunFolder
from decrop.cli.output import (
    accuracy_table,
    console,
    print_json,
    progress_bars,
    queries_document,
    queries_shown,
)
from decrop.config import TrialConfig, as_recorded
from decrop.errors import InputError

# Counts what an endpoint is asked, in the folder of a run.
QUERIES = "queries.json"
_ORIGIN = "Trained with settings given by the user; nothing was searched."


def train(
    settings: Annotated[str, typer.Argument(help="digits, cifar10, or a YAML file of settings.")],
    assignments: Assignments = None,
    out: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train one denoiser on the whole limited data, certify it on test images, export it.

    Example: [bold]decrop train digits --set sigma=0.5 --out runs/digits[/bold]
    """
    from decrop.bundle import export_bundle
    from decrop.cache import ContentCache
    from decrop.cli.options import load_trial, run_folder
    from decrop.data.datasets import load_dataset
    from decrop.files import read_json
    from decrop.smoothing.execution import resolve_device
    from decrop.trial.classifier_certificates import certify_undefended
    from decrop.trial.folder import TrialFolder
    from decrop.trial.inputs import check_inputs, load_inputs
    from decrop.trial.query_budget import total_queries
    from decrop.trial.result import TrialResult
    from decrop.trial.run import run_trial, stopping_epoch

    config = load_trial(settings, assignments or [])
    if config.trains_classifier:
        raise InputError(
            f"{settings}: denoiser.architecture = none: there is no denoiser to train; train the "
            "classifier with `decrop classifier train`."
        )
    out = run_folder(out, settings)
    folder, undefended = TrialFolder(out / "trial"), TrialFolder(out / "undefended")
    held_out = TrialFolder(out / "held_out")
    if folder.config_path.exists():
        earlier = _settings(folder.config_path)
        if earlier.without_budget() != config.without_budget():
            raise InputError(
                f"{folder.path} holds a run with other settings; choose another folder with --out."
            )
    cache = ContentCache(out / "cache")
    device = resolve_device(config.execution.device)
    queries = None
    if config.classifier.asked is not None:
        check_inputs(config)
        queries = total_queries(config, load_dataset(config.dataset), certifications=2)
    if queries is None:
        with console.status("loading data and classifier"):
            inputs = load_inputs(config, cache, device)
    else:
        queries.check()
        console.print(queries.sentence(), soft_wrap=True, highlight=False)
        with progress_bars() as bars:
            inputs = load_inputs(
                config,
                cache,
                device,
                ledger=out / QUERIES,
                on_asked=bars.counted("asking, images"),
                on_step=bars.counted("training the surrogate, steps"),
            )
    console.print(f"folder: {out}", soft_wrap=True, highlight=False)
    with queries_shown(inputs.target), progress_bars() as bars:
        pretraining = None if config.prior.kind == "none" else bars.counted("pretraining, steps")
        if config.training.early_stopping:
            for _ in run_trial(
                config,
                inputs,
                held_out,
                cache,
                split="held_out",
                on_prior_step=pretraining,
                on_epoch=bars.counted("training without held-out images, epochs"),
            ):
                pass
        for _ in run_trial(
            config,
            inputs,
            folder,
            cache,
            split="test",
            last_epoch=stopping_epoch(config, held_out),
            on_prior_step=pretraining,
            on_epoch=bars.counted("training, epochs"),
            on_certified=bars.certification("certifying"),
        ):
            pass
        reference = certify_undefended(
            config,
            inputs,
            undefended,
            on_certified=bars.certification("certifying without denoiser"),
        )
    result = TrialResult.from_json(read_json(folder.result_path))
    bundle = out / "bundle"
    if not bundle.exists():
        export_bundle(folder, inputs.protected, inputs.class_names, bundle, origin=_ORIGIN)
    rows = {"denoiser": result.scores, "no denoiser": reference.scores}
    console.print(accuracy_table("Certified accuracy on test images, % (95 % interval)", rows))
    if inputs.agreement is not None:
        console.print(
            "certified on the endpoint; trained through a surrogate that agrees with it on "
            f"{100 * inputs.agreement:.1f} % of {int(inputs.limited.held_out_mask.sum())} held-out "
            "images",
            soft_wrap=True,
            highlight=False,
        )
    console.print(f"bundle: {bundle}", soft_wrap=True, highlight=False)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "denoiser": result.to_json(),
                "undefended": reference.to_json(),
                **queries_document(inputs.target),
            }
        )


def _settings(path: Path) -> TrialConfig:
    """Read the settings of a trial, also one that an earlier version wrote."""
    from decrop.documents import trial_config
    from decrop.files import read_json

    return trial_config(as_recorded(read_json(path)), source=str(path))
