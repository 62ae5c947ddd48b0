"""Journal of class counts, from which a certification that was killed goes on."""

import dataclasses
import glob
import json
import os
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from decrop.errors import InputError, RunError
from decrop.files import fence_of, sha256_of_tensors, write_text
from decrop.networks.identity import network_identity
from decrop.smoothing.execution import hardware_of
from decrop.smoothing.sampling import CountRequest, Sampler, SamplingTask, StreamingSampler

_FORMAT = 2
_MOST_HEADER_BYTES = 1 << 14
_REQUEST = np.dtype([("image_id", "<i8"), ("stream", "<i4"), ("chunk", "<i8"), ("samples", "<i4")])

RequestKey = tuple[int, int, int, int]
Records = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class JournalStart:
    """How a journal was found.

    Attributes:
        samples: noise samples whose classes it has.
        others: what was certified otherwise by the journal that it replaces, such as `sigma`; empty
            where there was none, or this certification's own.
    """

    path: Path
    samples: int
    others: tuple[str, ...]

    def __str__(self) -> str:
        if self.others:
            return (
                f"{self.path.name} is of another certification ({', '.join(self.others)}): "
                "begun anew"
            )
        if self.samples:
            return f"{self.path.name} has {self.samples:,} samples: going on from there"
        return f"{self.path.name}: begun"


class RecordedSampler:
    """Counts classes by another sampler, and asks it for nothing that a file has the answer to.

    Counts that come one by one (`StreamingSampler`) are written down as they come.

    The file has a header line, which names everything that decides the counts, and a record of
    fixed size with a checksum for each answered request. A file of another task, or one whose
    header is damaged, is begun anew; records are cut off from the first that is torn or damaged.

    Attributes:
        start: how the file was found.
        restored: samples asked for so far whose classes the file had.
    """

    def __init__(
        self, sampler: Sampler, path: Path, task: SamplingTask, device: torch.device
    ) -> None:
        """Read the answers in `path`, or begin the file.

        Args:
            path: of the file; its folder is made if needed.
            task: everything in it decides the counts, so it must be equal for answers to count.
            device: on which `sampler` computes; kinds of devices give other counts.
        """
        self._image_ids: list[int] = task.image_ids.tolist()
        if len(set(self._image_ids)) < len(self._image_ids):
            raise InputError(
                f"image_ids must differ for answers to be found by them, but "
                f"{len(self._image_ids)} images have {len(set(self._image_ids))} ids."
            )
        self._sampler = sampler
        self._path = path
        self._record = np.dtype(
            [
                ("request", _REQUEST),
                ("counts", "<i4", (task.class_count + 1,)),
                ("checksum", "<u4"),
            ]
        )
        self._answers: dict[RequestKey, NDArray[np.int32]] = {}
        self.restored = 0
        identity = task_identity(task, device)
        header = json.dumps({"format": _FORMAT, "task": identity}).encode() + b"\n"
        # A record of another file is none of this one, whatever its checksum.
        self._salt = zlib.crc32(header)
        found = _first_line(path)
        if found == header:
            self._remember(self._whole_records(len(header)))
        else:
            # A new file in place of the old one: a process that still appends to that one, for
            # another task, cannot add its counts to these.
            write_text(path, header.decode())
        self._file = path.open("ab")
        others = () if found in (header, None) else _differences(found, identity)
        self.start = JournalStart(path, self.samples, others)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1]: samples of each class, last those not finite.

        Raises:
            RunError: the other sampler's counts have another shape, or do not add up to the
                    samples.
        """
        keys = [self._key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._answers
        }
        self.restored += _samples_of(keys) - _samples_of(missing)
        if missing:
            with closing(self._sampled(missing)) as parts:
                for sampled, counts in parts:
                    self._write(self._records(sampled, counts))
        answers = [self._answers[key] for key in keys]
        return np.array(answers, dtype=np.int64).reshape(len(keys), *self._record["counts"].shape)

    @property
    def samples(self) -> int:
        """How many samples the file has the classes of."""
        return _samples_of(self._answers)

    def close(self) -> None:
        """Close the file; its answers stay for the next sampler of the task."""
        self._file.close()

    def _key(self, request: CountRequest) -> RequestKey:
        return self._image_ids[request.image], request.stream, request.chunk, request.samples

    def _sampled(
        self, missing: Mapping[RequestKey, CountRequest]
    ) -> Generator[tuple[list[RequestKey], NDArray[np.int64]], None, None]:
        """Ask the other sampler, and yield the counts as they come."""
        keys, requests = list(missing), list(missing.values())
        if not isinstance(self._sampler, StreamingSampler):
            yield keys, self._sampler.class_counts(requests)
            return
        try:
            for rows, counts in self._sampler.streamed(requests):
                yield [keys[row] for row in rows], counts
        except RunError as error:
            raise type(error)(
                f"{error} What was answered is kept in {self._path}; the next run goes on from it."
            ) from None

    def _write(self, records: Records) -> None:
        # A process that is stopped right after this line appends in spite of a fence; harmless, for
        # the task decides the counts.
        fence_of(self._path)
        try:
            self._file.write(records.tobytes())
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._remember(records)

    def _records(self, keys: list[RequestKey], counts: NDArray[np.int64]) -> Records:
        shape = (len(keys), *self._record["counts"].shape)
        if counts.shape != shape:
            raise RunError(f"a sampler gave counts {counts.shape} where {shape} were asked for.")
        records = np.empty(len(keys), self._record)
        records["request"] = np.array(keys, _REQUEST)
        records["counts"] = counts
        records["checksum"] = self._checksums(records)
        adding_up = _adding_up(records)
        if not adding_up.all():
            row = int(adding_up.argmin())
            raise RunError(
                f"a sampler gave counts {counts[row].tolist()} where they must add up to "
                f"{keys[row][-1]} samples."
            )
        return records

    def _whole_records(self, start: int) -> Records:
        """Return the records before the first that is torn or damaged, and cut off the rest."""
        records: Records = np.fromfile(self._path, self._record, offset=start)
        whole = _adding_up(records) & (records["checksum"] == self._checksums(records))
        records = records[np.logical_and.accumulate(whole)]
        os.truncate(self._path, start + records.nbytes)
        return records

    def _checksums(self, records: Records) -> NDArray[np.uint32]:
        size = self._record.itemsize
        content, summed = records.tobytes(), size - self._record["checksum"].itemsize
        return np.array(
            [
                zlib.crc32(content[start : start + summed], self._salt)
                for start in range(0, len(content), size)
            ],
            dtype=np.uint32,
        )

    def _remember(self, records: Records) -> None:
        self._answers.update(zip(records["request"].tolist(), records["counts"], strict=True))


def _samples_of(keys: Iterable[RequestKey]) -> int:
    return sum(samples for *_, samples in keys)


def journal_at(path: Path, sigma: float) -> Path:
    """Return where the journal of one of several standard deviations lies, beside `path`."""
    return path.with_name(f"{path.name}.sigma_{sigma!r}")


def remove_journals(path: Path) -> None:
    """Remove a journal and those of other standard deviations beside it."""
    for journal in [path, *path.parent.glob(f"{glob.escape(path.name)}.sigma_*")]:
        journal.unlink(missing_ok=True)


def task_identity(task: SamplingTask, device: torch.device) -> dict[str, Any]:
    """Return what decides the counts of a task on a device, as JSON by name."""
    by_content = {
        "network": network_identity(task.network),
        "images": sha256_of_tensors({"images": task.images, "image_ids": task.image_ids}),
    }
    settings = {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(task)
        if field.name not in ("network", "images", "image_ids")
    }
    return by_content | settings | {"device": hardware_of(device), "torch": torch.__version__}


def _first_line(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.readline(_MOST_HEADER_BYTES)
    except FileNotFoundError:
        return None


def _differences(line: bytes | None, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what a header line has another value of."""
    try:
        header = json.loads(line or b"")
        found = header["task"] if header["format"] == _FORMAT else {}
        different = tuple(name for name, value in identity.items() if found.get(name) != value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ("damaged header",)
    return different if len(different) < len(identity) else ("another format",)


def _adding_up(records: Records) -> NDArray[np.bool_]:
    samples, counts = records["request"]["samples"], records["counts"]
    adding_up: NDArray[np.bool_] = (
        (samples > 0) & (counts >= 0).all(axis=1) & (counts.sum(axis=1, dtype=np.int64) == samples)
    )
    return adding_up
