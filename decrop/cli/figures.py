"""`decrop figures`: figures of a bundle."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from decrop.cli.options import AsJson, ClassifierWeights, DatasetPath, TrustCode
from decrop.cli.output import console, print_json, say
from decrop.errors import InputError

if TYPE_CHECKING:
    from decrop.bundle import Bundle
    from decrop.data.limited import LimitedData
    from decrop.evaluation.table import CertificateTable


def figures(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    to: Annotated[Path, typer.Option(help="Folder to write; figures in it are replaced.")],
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Draw the certified accuracy of another table of certificates too; repeatable.",
        ),
    ] = None,
    shown_class: Annotated[
        str | None,
        typer.Option("--class", help="Whose features are drawn; the first one by default."),
    ] = None,
    without_data: Annotated[
        bool, typer.Option("--without-data", help="Draw only what needs no dataset.")
    ] = False,
    dataset_path: DatasetPath = None,
    weights: ClassifierWeights = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Draw certified accuracy, losses, pictures of the limited data, and features, as PNG.

    Beside certified accuracy over the radius, the distribution of p_A, the probability of the class
    under noise. The last two need the dataset: boundary and interpolated samples are made again.

    Example: [bold]decrop figures runs/digits/bundle --to runs/digits/figures[/bold]
    """
    from decrop.bundle import limited_data_of, load_bundle
    from decrop.classifiers.storage import file_or_url
    from decrop.evaluation.plots import training_curves_figure
    from decrop.trial.folder import TRAINING_FIGURE, save_certificate_figures, save_figure

    _refuse_folder(to, bundle)
    loaded = load_bundle(bundle, classifier=file_or_url(weights), trust_code=trust_code)
    trained = loaded.config.trains
    tables = {**loaded.tables, **_other_tables(compare or [])}
    class_number = _class_number(loaded, shown_class)
    # A classifier was not trained on boundary and interpolated samples.
    drawn = trained == "denoiser" and not without_data
    limited = limited_data_of(loaded, dataset_path=dataset_path) if drawn else None
    save_certificate_figures(tables, to)
    if loaded.history:
        save_figure(training_curves_figure(loaded.history), to / TRAINING_FIGURE)
    else:
        console.print("no losses are drawn: the bundle was exported without them")
    if limited is not None:
        with console.status("making boundary and interpolated samples"):
            _draw_samples(loaded, limited, class_number, to)
    say(f"figures: {to}")
    if as_json:
        print_json({"figures": sorted(str(path) for path in to.glob("*.png"))})


def _refuse_folder(to: Path, bundle: Path) -> None:
    if to.exists() and not to.is_dir():
        raise InputError(f"--to {to}: is a file; give a folder.")
    if to.resolve().is_relative_to(bundle.resolve()):
        raise InputError(
            f"--to {to}: lies in the bundle, whose files must not change; give another folder."
        )


def _other_tables(assignments: Sequence[str]) -> "dict[str, CertificateTable]":
    from decrop.evaluation.logs import read_log

    tables = {}
    for assignment in assignments:
        name, separator, path = assignment.partition("=")
        if not (name and separator and path):
            raise InputError(f"--compare {assignment}: must be NAME=FILE.")
        tables[name] = read_log(Path(path))
    return tables


def _class_number(bundle: "Bundle", name: str | None) -> int:
    if name is None:
        return 0
    if name not in bundle.class_names:
        raise InputError(f"--class {name}: must be one of {', '.join(bundle.class_names)}.")
    return bundle.class_names.index(name)


def _draw_samples(bundle: "Bundle", limited: "LimitedData", class_number: int, to: Path) -> None:
    from decrop.cache import ContentCache
    from decrop.evaluation.sample_figures import PicturedSamples
    from decrop.smoothing.execution import resolve_device
    from decrop.synthesis.synthetic_samples import synthetic_samples
    from decrop.trial.folder import save_sample_figures

    # Nothing is certified, so it need not be the device of the certificates.
    device = resolve_device("auto")
    config = bundle.config
    with TemporaryDirectory() as folder:
        samples = synthetic_samples(
            config, bundle.white_box, limited, cache=ContentCache(Path(folder)), device=device
        )
    labels, names = limited.all.labels, bundle.class_names
    shown = PicturedSamples(samples, labels, bundle.white_box, names, config.seed, device)
    sigma = config.sigma
    save_sample_figures(to, shown, bundle.denoiser, sigma=sigma, shown_class=class_number)
