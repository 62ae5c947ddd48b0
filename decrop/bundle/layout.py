"""The files of a bundle, their format and their checksums."""

from pathlib import Path, PurePosixPath

from decrop.config.trial import Part
from decrop.documents import show
from decrop.errors import InputError
from decrop.evaluation.record import record_path
from decrop.evaluation.sigma_tables import envelope_path
from decrop.files import MOST_TEXT_BYTES, read_json, sha256_of_file, write_json

# In 10 are settings that 9 lacks, whose defaults are what it did.
FORMAT = 10
OLDEST_FORMAT = 10
CONFIG = "config.json"
DENOISER = "denoiser.safetensors"
CERTIFICATES = "certificates.tsv"
ENVELOPE_TABLE = envelope_path(Path(CERTIFICATES)).name
RECORD = record_path(Path(CERTIFICATES)).name
HISTORY = "history.json"
CLASSIFIER = "classifier"
CARD = "README.md"
REJECTOR = "rejector.safetensors"
REJECTOR_HISTORY = "rejector_history.json"
ONNX = "denoiser.onnx"
TORCH_EXPORT = "denoiser.pt2"
CHECKSUMS = "checksums.json"
# Weights of what a trial trained; a classifier's lie with its description.
WEIGHTS: dict[Part, tuple[str, ...]] = {"denoiser": (DENOISER,), "classifier": ()}
_MOST_FILES, _LONGEST_NAME = 10_000, 60
# What use and verification read; other files are checked where they are listed.
_PROTECTED = {CONFIG, CERTIFICATES, "classifier/classifier.json"}


def files_of(folder: Path) -> list[str]:
    """Return the paths of all files under a folder, relative to it, in order."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def write_checksums(folder: Path) -> None:
    """Write down the checksum of each file of a bundle that is otherwise complete."""
    write_json(
        folder / CHECKSUMS, {name: sha256_of_file(folder / name) for name in files_of(folder)}
    )


def checked_files(folder: Path) -> list[str]:
    """Compare a bundle's files with its checksums and return their names, checksums.json last."""
    checksums = read_json(folder / CHECKSUMS, most_bytes=MOST_TEXT_BYTES)
    if not isinstance(checksums, dict) or not checksums.keys() >= _PROTECTED:
        raise InputError(
            f"{folder / CHECKSUMS} must list {', '.join(sorted(_PROTECTED))}; export it anew."
        )
    if len(checksums) > _MOST_FILES:
        raise InputError(
            f"{folder / CHECKSUMS} lists {len(checksums):,} files; {_MOST_FILES:,} is the most."
        )
    # What is listed is copied and uploaded with the bundle, so it must be the bundle's own; what is
    # not may still be read.
    for name in [*checksums, CHECKSUMS, HISTORY, CARD]:
        if not _stays_inside(folder, name):
            raise InputError(
                f"{folder / CHECKSUMS} lists {show(name)}, which is outside the bundle."
            )
    for name, checksum in checksums.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} is incomplete: {name} is missing.")
        if sha256_of_file(file) != checksum:
            raise InputError(f"{folder} was changed: {name} does not match its checksum.")
    return [*checksums, CHECKSUMS]


def _stays_inside(folder: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        return False
    if not name.isprintable() or max(map(len, path.parts)) > _LONGEST_NAME:
        return False
    # The hub's cache keeps a revision's files beside the revision, and links to them.
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder
    try:
        return (folder / path).resolve().is_relative_to(home.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False
