"""Results that several processes and hosts share, each computed once and found by its content."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import SoftFileLease
from safetensors import SafetensorError
from safetensors.torch import load_file

from decrop.files import sha256_of_json, write_json, write_tensors

Tensors = dict[str, torch.Tensor]

# A holder that shows no sign of life for this long has died; another takes the work over.
_LEASE_SECONDS = 30.0


class ContentCache:
    """A folder of tensors named by the hash of what determines them.

    Processes on any host that see the folder compute an entry once: the first holds a lease that it
    renews while it works, the others wait for the entry. If the holder dies, another takes over.
    One that only seemed dead does no harm: its entry is the same, and replaces the other's whole.
    Each computation leaves a marker, so `computations` tells how often work was really done.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(
        self, kind: str, determined_by: Mapping[str, Any], compute: Callable[[], Tensors]
    ) -> Tensors:
        """Return the tensors of an entry, computing them if nobody has.

        Args:
            kind: name of the sort of entry; a sub-folder.
            determined_by: JSON mapping of everything that the result depends on.
            compute: makes the tensors; called at most once among all processes that stay alive.
        """
        key = sha256_of_json(determined_by)
        entry = self._folder / kind / f"{key}.safetensors"
        if (found := _read(entry)) is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with SoftFileLease(entry.with_suffix(".lease"), lease_duration=_LEASE_SECONDS):
                if (found := _read(entry)) is None:
                    self._compute(entry, determined_by, compute)
                    found = load_file(entry)
        return found

    def unfinished(self, kind: str, determined_by: Mapping[str, Any]) -> Path:
        """Return the folder for what a computation needs to go on if it is cut off.

        Who computes the entry alone writes there, and removes it once there is the entry.
        """
        return self._folder / kind / f"{sha256_of_json(determined_by)}.unfinished"

    def computations(self, kind: str) -> int:
        """Count how many times entries of `kind` have been computed."""
        return sum(1 for _ in (self._folder / kind).glob("*.computed.json"))

    def _compute(
        self, entry: Path, determined_by: Mapping[str, Any], compute: Callable[[], Tensors]
    ) -> None:
        tensors = compute()
        marker = f"{entry.stem}.{uuid.uuid4().hex}.computed.json"
        write_json(entry.with_name(marker), dict(determined_by))
        write_tensors(entry, tensors)


def _read(entry: Path) -> Tensors | None:
    """Return an entry's tensors; None where there is none, or a torn one."""
    try:
        return load_file(entry)
    except (FileNotFoundError, SafetensorError):
        return None
