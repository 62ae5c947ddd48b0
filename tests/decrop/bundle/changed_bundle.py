"""Bundles changed on purpose, by someone who changes their checksums too."""

from pathlib import Path
from typing import Any

import decrop
from decrop.documents import set_dotted
from decrop.files import read_json, sha256_of_file, write_json
from tests.refusals import one_line


def renew_checksums(bundle: Path) -> None:
    """Write down the checksums of the files that are listed and still there."""
    names = [name for name in read_json(bundle / "checksums.json") if (bundle / name).exists()]
    write_json(bundle / "checksums.json", {name: sha256_of_file(bundle / name) for name in names})


def set_in(bundle: Path, key: str, value: Any, name: str = "config.json") -> Path:
    """Set a dotted key of one of its documents and return the document's path."""
    path = bundle / name
    write_json(path, set_dotted(read_json(path), key, value))
    renew_checksums(bundle)
    return path


def refusal(bundle: Path, **options: Any) -> str:
    """Return the one line with which the bundle is refused."""
    return one_line(decrop.load, bundle, **options)
