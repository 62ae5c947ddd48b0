"""`decrop verify`: repeat the certificates a bundle records."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from decrop.cli.options import AsJson, ClassifierWeights, DatasetPath, TrustCode
from decrop.cli.output import console, print_json, progress_bars, say


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    dataset_path: DatasetPath = None,
    weights: ClassifierWeights = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="The recorded kind if not given."),
    ] = None,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Repeat all certificates recorded in a bundle and say how many are identical.

    Checksums, classifier and data are compared with the recorded hashes first, the certified images
    with those that the settings name, and the figures with the certificates. Exit code 1 if a
    certificate differs.

    Example: [bold]decrop verify runs/digits/bundle[/bold]
    """
    from decrop.bundle import load_bundle, verify_bundle
    from decrop.bundle.layout import CARD
    from decrop.classifiers.storage import file_or_url
    from decrop.files import read_text

    loaded = load_bundle(bundle, classifier=file_or_url(weights), trust_code=trust_code)
    card = bundle / CARD
    with progress_bars() as bars:
        identical = verify_bundle(
            loaded,
            dataset_path=dataset_path,
            device=device,
            card=read_text(card) if card.exists() else None,
            hooks=bars.hooks("certifying"),
        )
    weakness = loaded.config.certification.weakness
    if weakness is not None:
        say(weakness)
    recorded = sum(len(table.idx) for table in loaded.tables.values())
    if identical == recorded:
        console.print(f"all {recorded} recorded certificates are identical")
    else:
        if device is not None:
            say(
                f"certified on {loaded.result.device}: on another device the function has other "
                "last bits, so certificates may differ"
            )
        console.print(
            f"{identical} of {recorded} recorded certificates are identical; "
            f"{recorded - identical} differ",
        )
    record = loaded.certificates.record
    assert record is not None  # `load_bundle` gives each table one
    for table in [loaded.certificates] if loaded.sigma_tables is None else loaded.tables.values():
        assert table.record is not None
        say(table.record.guarantee())
    if as_json:
        document = {"recorded": recorded, "identical": identical}
        print_json({**document, "record": record.model_dump(mode="json")})
    if identical != recorded:
        raise typer.Exit(1)
