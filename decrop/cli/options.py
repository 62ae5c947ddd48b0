"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting by its dotted path; repeatable."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Folder to write; a folder of an earlier run with these settings goes on."
    ),
]
DatasetPath = Annotated[
    str | None,
    typer.Option(help="Folder of the dataset; bundles do not record where it lay."),
]
ClassifierWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="safetensors (or .pt2) file of the classifier, or http(s) URL of the endpoint that "
        "it is behind, where the target names or holds none.",
    ),
]
QueryCount = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        help="File that counts the images asked of an endpoint, against its query_budget too; "
        "other commands may share it.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the function or model that a bundle or sweep names for its classifier, and "
        "ask the endpoint; only for those of people you trust.",
    ),
]
