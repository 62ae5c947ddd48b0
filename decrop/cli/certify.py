"""`decrop certify`: certificates for a bundle, or for a classifier without a denoiser."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decrop.cli.options import (
    AsJson,
    Assignments,
    ClassifierWeights,
    DatasetPath,
    QueryCount,
    TrustCode,
)
from decrop.cli.output import (
    accuracy_table,
    console,
    print_json,
    progress_bars,
    queries_shown,
    refuse_queries,
    say,
)
from decrop.errors import InputError

if TYPE_CHECKING:
    from decrop.config import TrialConfig
    from decrop.smoothing.sampling import MakeSampler
    from decrop.trial.certify import CertificationTask
    from decrop.trial.several_sigmas import SigmaCertifications

    # Settings, number of helpers and address to who makes samplers, while the cluster is there.
    ClusterProvider = Callable[
        [TrialConfig, int, str | None], AbstractContextManager[MakeSampler | None]
    ]

# What the denoiser and the classifier of a bundle do not depend on.
_CHANGEABLE = ("certification", "execution", "seed")
# How an endpoint is asked, which does not decide what it answers.
_CHANGEABLE_OF_ENDPOINTS = tuple(
    f"classifier.endpoint.{name}"
    for name in (
        "batch_size",
        "concurrency",
        "requests_per_second",
        "timeout_seconds",
        "retries",
        "token_variable",
        "query_budget",
    )
)


def certify(
    target: Annotated[
        str,
        typer.Argument(
            help="Folder of a bundle; or settings (digits, cifar10, a YAML file) whose classifier "
            "is certified without a denoiser, or behind one that is trained already, as it is."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write one row an image; TARGET_sigma_0.25.tsv here if not given."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Certify anew, in place of whatever was certified to --out."
        ),
    ] = False,
    assignments: Assignments = None,
    dataset_path: DatasetPath = None,
    weights: ClassifierWeights = None,
    trust_code: TrustCode = False,
    queries: QueryCount = None,
    helpers: Annotated[
        int, typer.Option(min=0, help="Processes of a Ray cluster that draw samples too.")
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(help="Of the cluster, auto or HOST:PORT; without it one is started here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Certify test images anew, with other samples, images or radii if so wished.

    Writes one row an image: idx, label, predict (-1 where it abstains), radius, correct, time,
    samples, why no more were drawn, and the class that was selected to be tested; and beside it all
    settings, as OUT.json. Counts are kept beside it until it is written, so that the same command
    goes on after it was killed. Once it is written the same command shows it again; what is of
    other settings is replaced with --overwrite only.

    Sample sizes must be fixed beforehand: to certify again with others until it pleases makes wrong
    certificates likelier. To go on with more later, set certification.procedure=anytime from the
    start: then the counts stay, and the same command with a larger certification.max_samples draws
    what is missing.

    At several standard deviations of the noise at once: --set certification.sigmas=[0.12,0.5]. Each
    gets a table of its own, …_sigma_0.12.tsv; …_envelope.tsv has of each image the largest radius,
    and …_sigmas.png shows them.

    Of a classifier behind an endpoint the images asked are counted beside it too, in a file that
    stays (--queries names another). How many may be asked is said first.

    Example: [bold]decrop certify runs/digits/bundle --set certification.max_samples=20000[/bold]
    """
    from decrop.evaluation.sigma_tables import ENVELOPE_MEANING
    from decrop.smoothing.backend import backend_of
    from decrop.smoothing.execution import resolve_device
    from decrop.trial.certify import precision_of

    if address is not None and not helpers:
        raise InputError(f"--address {address} needs --helpers, the processes that draw there.")
    provider = _cluster_provider() if helpers else None
    config, task, out = _load(
        target, list(assignments or []), dataset_path, weights, trust_code, out, queries
    )
    backend = backend_of(task.network)
    refuse_queries(queries, asked=backend.costs)
    if backend.costs and helpers:
        raise InputError(f"--helpers {helpers}: an endpoint is asked by one process alone.")
    samplers = provider(config, helpers, address) if provider else nullcontext()
    found = _certified(config, task, out, samplers, overwrite=overwrite)
    config, table, scores = found.own.config, found.own.table, found.own.scores
    several = found.tables
    # The envelope's are those of all sigmas.
    sampled = (table if several is None else several.envelope).samples
    samples = 0 if sampled is None else int(sampled.sum())
    precision = precision_of(config)
    rows = {target: scores} if several is None else found.scores()
    console.print(accuracy_table(_title(config), rows))
    if several is not None:
        say(ENVELOPE_MEANING)
    console.print(
        f"{samples / len(table.idx):,.0f} samples an image"
        f"{'' if several is None else ' at all σ together'}, in {precision} on "
        f"{resolve_device(config.execution.device).type}"
        f"{', images contiguous in memory' if config.execution.layout == 'contiguous' else ''}",
    )
    shares = table.shares
    say(
        f"{'' if several is None else f'at σ = {config.sigma:g}: '}"
        f"certified correct {shares.correct:.1%}, misclassified {shares.misclassified:.1%} (a "
        f"wrong class was selected, certified or not), abstained {shares.abstained:.1%}"
    )
    if several is None:
        say(f"certificates: {out}")
    else:
        for name, path in several.paths(out, config.sigma).items():
            say(f"certificates, {name}: {path}")
        figure_path = _figure_path(out, config.sigma)
        say(f"figure: {figure_path}")
    if as_json:
        print_json(
            {
                "certificates": str(out),
                "certified_accuracy": scores.certified_accuracy,
                "shares": asdict(shares),
                "samples": samples,
                "precision": precision,
                **({} if several is None else _several_document(found, out)),
                **backend.spent_document(),
            }
        )


def _certified(
    config: "TrialConfig",
    task: "CertificationTask",
    out: Path,
    samplers: "AbstractContextManager[MakeSampler | None]",
    *,
    overwrite: bool,
) -> "SigmaCertifications":
    """Certify and write the tables, or read them where they are there already."""
    from decrop.smoothing.journal import remove_journals
    from decrop.trial.certified_before import certified_before
    from decrop.trial.certify import with_fitting_execution, with_recorded_batch_size
    from decrop.trial.folder import save_figure
    from decrop.trial.several_sigmas import certify_at_sigmas

    samples = config.certification.most_estimation_samples
    config = with_fitting_execution(config, task.network, tuple(task.images.images.shape[1:]))
    if not overwrite:
        before = certified_before(config, task, out, estimation_samples=samples)
        if before is not None:
            say(f"{out} has these certificates already; --overwrite certifies anew")
            return before
    counts, execution = (out.with_name(f"{out.name}.{part}") for part in ("counts", "execution"))
    with queries_shown(task.network), samplers as on_cluster, progress_bars() as bars:
        found = certify_at_sigmas(
            with_recorded_batch_size(config, task, execution),
            task,
            estimation_samples=samples,
            journal=counts,
            hooks=replace(bars.hooks("certifying"), make_sampler=on_cluster),
        )
    found.own.table.write(out)
    if found.tables is not None:
        from decrop.evaluation.plots import certificates_figure

        found.tables.write(out, config.sigma)
        figure = certificates_figure(found.tables.named())
        save_figure(figure, _figure_path(out, config.sigma))
    if config.certification.procedure != "anytime":
        remove_journals(counts)
        execution.unlink(missing_ok=True)
    return found


def _out_path(target: str, config: "TrialConfig") -> Path:
    """Name a table after what is certified, and the noise."""
    from decrop.evaluation.sigma_tables import named_sigma

    name = Path(target).stem
    if (folder := Path(target)).is_dir():
        folder = folder.resolve()
        # Training and sweeps call theirs all alike.
        name = f"{folder.parent.name}_bundle" if folder.name == "bundle" else folder.name
    return Path(f"{name}{named_sigma(config.sigma)}.tsv")


def _figure_path(out: Path, sigma: float) -> Path:
    from decrop.evaluation.sigma_tables import named_sigma

    return out.with_name(f"{out.stem.removesuffix(named_sigma(sigma))}_sigmas.png")


def _several_document(found: "SigmaCertifications", out: Path) -> dict[str, Any]:
    """Return what --json says of each sigma and of the envelope."""
    from decrop.trial.result import radius_key

    assert found.tables is not None
    paths = found.tables.paths(out, found.own.config.sigma)
    *at_sigmas, envelope = (
        {
            "certificates": str(paths[name]),
            "certified_accuracy": scores.certified_accuracy,
            "average_certified_radius": scores.average_certified_radius,
        }
        for name, scores in found.scores().items()
    )
    by_sigma = dict(zip(map(radius_key, found.tables.by_sigma), at_sigmas, strict=True))
    figure = _figure_path(out, found.own.config.sigma)
    return {"by_sigma": by_sigma, "envelope": envelope, "figure": str(figure)}


def _load(
    target: str,
    assignments: list[str],
    dataset_path: str | None,
    weights: str | None,
    trust_code: bool,
    out: Path | None,
    queries: Path | None,
) -> "tuple[TrialConfig, CertificationTask, Path]":
    """Return settings, what to certify, and the path of the table."""
    from torch import nn

    from decrop.bundle import load_bundle
    from decrop.cache import ContentCache
    from decrop.classifiers.storage import file_or_url
    from decrop.cli.options import change, load_trial
    from decrop.config import DenoiserSettings
    from decrop.data.datasets import load_dataset
    from decrop.data.limited import images_to_certify, limited_data
    from decrop.denoisers.check import check_trained_sigma
    from decrop.networks.denoised import DenoisedClassifier
    from decrop.rejection.network import check_certificate
    from decrop.smoothing.execution import resolve_device
    from decrop.trial.certify import CertificationTask
    from decrop.trial.inputs import trained_denoiser
    from decrop.trial.prepare import protected_classifier

    given = file_or_url(weights)
    if Path(target).is_dir():
        changeable = (*_CHANGEABLE, *_CHANGEABLE_OF_ENDPOINTS)
        refuse_what_a_bundle_fixes(assignments, changeable=changeable)
    if dataset_path is not None:
        assignments = [*assignments, f"dataset.path={dataset_path}"]
    if Path(target).is_dir():
        bundle = load_bundle(Path(target), classifier=given, trust_code=trust_code)
        config = change(bundle.config, assignments)
        out = out or _out_path(target, config)
        for sigma in config.certified_sigmas:
            check_trained_sigma(config, sigma)
        images = images_to_certify(load_dataset(config.dataset), config.certification.test_images)
        asked = bundle.classifier.asked_as(config.classifier.asked, queries or _ledger(out))
        bundle = replace(bundle, classifier=asked)
        classes = len(bundle.class_names)
        return config, CertificationTask(bundle.network, images, "test", classes), out
    if isinstance(given, Path):
        # Presets may train the classifier, in place of which these weights are.
        replaced = ("classifier.training=null", f"classifier.weights={weights}")
        assignments = [*assignments, *replaced]
    elif given is not None:
        replaced = ("classifier.training=null", f"classifier.source={given}")
        assignments = [*assignments, *replaced]
    config = load_trial(target, assignments)
    out = out or _out_path(target, config)
    if not config.denoiser.starts_trained:
        # A trial without a denoiser would train the classifier itself; here it is an input.
        config = config.model_copy(update={"denoiser": DenoiserSettings()})
    check_certificate(config.certification.certificate, rejecting=False)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited).all.images
    denoiser = trained_denoiser(config, limited)
    images = images_to_certify(dataset, config.certification.test_images)
    with TemporaryDirectory() as cache:
        device = resolve_device(config.execution.device)
        classifier = protected_classifier(
            config, dataset, ContentCache(Path(cache)), device, queries or _ledger(out)
        )
    network: nn.Module = classifier
    if denoiser is not None:
        mirrored = config.denoiser.mirrored
        network = DenoisedClassifier(denoiser.network, classifier, mirrored=mirrored)
    return config, CertificationTask(network, images, "test", dataset.class_count), out


def _ledger(out: Path) -> Path:
    return out.with_name(f"{out.name}.queries")


def refuse_what_a_bundle_fixes(
    assignments: Sequence[str], *, changeable: tuple[str, ...] = _CHANGEABLE
) -> None:
    """Raise InputError for assignments to settings that the files of a bundle depend on."""
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        allowed = key.split(".")[0] in changeable or key in changeable
        if not allowed and key != "dataset.path":
            raise InputError(
                f"--set {key}: the bundle fixes it; what can be changed is in "
                f"{', '.join(name for name in changeable if '.' not in name)}, and dataset.path."
            )


def _cluster_provider() -> "ClusterProvider":
    """Find who makes samplers on a cluster; this package does not know Ray."""
    providers = entry_points(group="decrop.samplers", name="ray")
    if not providers:
        raise InputError("--helpers needs Ray; install it with pip install 'decrop[sweep]'.")
    provider: ClusterProvider = next(iter(providers)).load()
    return provider


def _title(config: "TrialConfig") -> str:
    settings = config.certification
    draws = (
        f"N = {settings.estimation_samples}"
        if settings.procedure == "fixed"
        else f"{settings.max_samples} samples an image, anytime-valid"
        if settings.procedure == "anytime"
        else f"at most {settings.max_samples} samples"
    )
    if len(config.certified_sigmas) > 1:
        return f"Certified accuracy on test images, % (95 % interval), {draws} at each σ"
    return f"Certified accuracy on test images, % (95 % interval), σ = {config.sigma:g}, {draws}"
