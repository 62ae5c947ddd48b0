"""`decrop train`: one trial, without Ray."""

from functools import partial
from typing import Annotated

import typer

from decrop.cli.options import AsJson, Assignments, RunFolder
from decrop.cli.output import (
    accuracy_table,
    console,
    print_json,
    progress_bars,
    queries_shown,
    say,
)
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
    from decrop.smoothing.backend import backend_of
    from decrop.smoothing.execution import resolve_device
    from decrop.trial.folder import TrialFolder
    from decrop.trial.prepare import prepare
    from decrop.trial.query_budget import total_queries
    from decrop.trial.run import certify_undefended, run_trial, stopping_epoch

    config = load_trial(settings, assignments or [])
    if config.trains != "denoiser":
        raise InputError(
            f"{settings}: denoiser.source = none: there is no denoiser to train; train the "
            "classifier with `decrop classifier train`."
        )
    out = run_folder(out, settings)
    folder, undefended = TrialFolder(out / "trial"), TrialFolder(out / "undefended")
    held_out = TrialFolder(out / "held_out")
    for begun in (folder, held_out):
        found = begun.read_config() if begun.config_path.exists() else config
        if found.without_budget() != config.without_budget():
            raise InputError(
                f"{begun.path} holds a run with other settings; choose another folder with --out."
            )
    cache = ContentCache(out / "cache")
    device = resolve_device(config.execution.device)
    with console.status("loading data"):
        prepared = prepare(config)
    queries = total_queries(prepared, certifications=2)
    if queries is not None:
        queries.check()
        say(queries.sentence())
    with progress_bars("loading data and classifier") as bars:
        inputs = prepared.load(cache, device, ledger=out / QUERIES, hooks=bars.hooks("certifying"))
    say(f"folder: {out}")
    with queries_shown(inputs.protected), progress_bars() as bars:
        run = partial(run_trial, config, inputs, cache=cache, hooks=bars.hooks("certifying"))
        if config.training.early_stopping:
            list(run(held_out, split="held_out"))
        list(run(folder, split="test", last_epoch=stopping_epoch(config, held_out)))
        reference = certify_undefended(
            config, inputs, undefended, hooks=bars.hooks("certifying without denoiser")
        )
    result = folder.result
    assert result is not None  # its training has ended
    bundle = out / "bundle"
    if not bundle.exists():
        export_bundle(folder, inputs.protected, inputs.class_names, bundle, origin=_ORIGIN)
    rows = {"denoiser": result.scores, "no denoiser": reference.scores}
    console.print(accuracy_table("Certified accuracy on test images, % (95 % interval)", rows))
    if inputs.agreement is not None:
        say(
            "certified on the endpoint; trained through a surrogate that agrees with it on "
            f"{100 * inputs.agreement:.1f} % of {len(inputs.limited.held_out)} held-out "
            "images"
        )
    say(f"bundle: {bundle}")
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "denoiser": result.to_json(),
                "undefended": reference.to_json(),
                **backend_of(inputs.protected).spent_document(),
            }
        )
