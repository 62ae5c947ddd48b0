"""Counts kept in a file as they are drawn, so that a certification that was killed can go on."""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from decrop.errors import InputError, RunError
from decrop.fence import fence_of
from decrop.files import sha256_of_json, sha256_of_tensors, write_text
from decrop.smoothing.asking import AskingSampler
from decrop.smoothing.sampling import CountRequest, Sampler, SamplingTask

_FORMAT = 1
_REQUEST = np.dtype([("image_id", "<i8"), ("stream", "<i4"), ("chunk", "<i8"), ("draws", "<i4")])

RequestKey = tuple[int, int, int, int]
Records = NDArray[Any]


class RecordedSampler:
    """Counts classes by another sampler, and asks it for nothing that a file has the answer to.

    Answers of an endpoint are written down one by one as they come.

    The file has a header line, which names the task, and a record of fixed size for each answered
    request. A file of another task, or one whose header is damaged, is begun anew; records are cut
    off from the first that is torn or damaged.
    """

    def __init__(
        self, sampler: Sampler, path: Path, task: SamplingTask, device: torch.device
    ) -> None:
        """Read the answers in `path`, or begin the file.

        Args:
            sampler: counts classes of `task`.
            path: of the file; its folder is made if needed.
            task: everything in it decides the counts, so it must be equal for answers to count.
            device: on which `sampler` computes; kinds of devices give other counts.

        Raises:
            InputError: two images of the task have the same id.
        """
        self._image_ids: list[int] = task.image_ids.tolist()
        if len(set(self._image_ids)) < len(self._image_ids):
            raise InputError(
                f"image_ids must differ for answers to be found by them, but "
                f"{len(self._image_ids)} images have {len(set(self._image_ids))} ids."
            )
        self._sampler = sampler
        self._path = path
        self._record = np.dtype([("request", _REQUEST), ("counts", "<i4", (task.class_count + 1,))])
        self._answers: dict[RequestKey, NDArray[np.int32]] = {}
        header = json.dumps({"format": _FORMAT, "task": _fingerprint(task, device)}) + "\n"
        if _starts_with(path, header.encode()):
            self._remember(_whole_records(path, len(header), self._record))
        else:
            # A new file in place of the old one: a process that still appends to that one, for
            # another task, cannot add its counts to these.
            write_text(path, header)
        self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        """Return int64 [len(requests), K+1]: draws of each class, last those not finite.

        Raises:
            RunError: the other sampler's counts have another shape, or do not add up to the draws.
            OSError: the file cannot be written.
        """
        keys = [self._key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._answers
        }
        if missing:
            with closing(self._drawn(missing)) as parts:
                for drawn, counts in parts:
                    self._write(self._records(drawn, counts))
        answers = [self._answers[key] for key in keys]
        return np.array(answers, dtype=np.int64).reshape(len(keys), *self._record["counts"].shape)

    @property
    def draws(self) -> int:
        """How many draws the file has the classes of."""
        return sum(draws for *_, draws in self._answers)

    def close(self) -> None:
        """Close the file; its answers stay for the next sampler of the task."""
        self._file.close()

    def _key(self, request: CountRequest) -> RequestKey:
        return self._image_ids[request.image], request.stream, request.chunk, request.draws

    def _drawn(
        self, missing: Mapping[RequestKey, CountRequest]
    ) -> Generator[tuple[list[RequestKey], NDArray[np.int64]], None, None]:
        """Ask the other sampler, and yield the counts as they come."""
        keys, requests = list(missing), list(missing.values())
        if not isinstance(self._sampler, AskingSampler):
            yield keys, self._sampler.class_counts(requests)
            return
        try:
            for rows, counts in self._sampler.answered(requests):
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
        adding_up = _adding_up(records)
        if not adding_up.all():
            row = int(adding_up.argmin())
            raise RunError(
                f"a sampler gave counts {counts[row].tolist()} where they must add up to "
                f"{keys[row][-1]} draws."
            )
        return records

    def _remember(self, records: Records) -> None:
        self._answers.update(zip(records["request"].tolist(), records["counts"], strict=True))


def _fingerprint(task: SamplingTask, device: torch.device) -> str:
    """Hash everything that decides the counts of a task."""
    network = task.network
    # Unlike state_dict, these include the buffers that are not saved with the network.
    tensors = dict(network.named_parameters(remove_duplicate=False))
    buffers = dict(network.named_buffers(remove_duplicate=False))
    return sha256_of_json(
        {
            "structure": repr(network),
            "weights": sha256_of_tensors(tensors | buffers),
            "images": sha256_of_tensors({"images": task.images, "image_ids": task.image_ids}),
            "class_count": task.class_count,
            "sigma": task.sigma,
            "seed": task.seed,
            "chunk_size": task.chunk_size,
            "chunks_per_batch": task.chunks_per_batch,
            "precision": task.precision,
            "device": device.type,
            "torch": torch.__version__,
        }
    )


def _starts_with(path: Path, header: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header
    except FileNotFoundError:
        return False


def _whole_records(path: Path, start: int, dtype: np.dtype[np.void]) -> Records:
    """Return the records before the first that is torn or damaged, and cut off the rest."""
    records: Records = np.fromfile(path, dtype, offset=start)
    records = records[np.logical_and.accumulate(_adding_up(records))]
    os.truncate(path, start + records.nbytes)
    return records


def _adding_up(records: Records) -> NDArray[np.bool_]:
    draws, counts = records["request"]["draws"], records["counts"]
    adding_up: NDArray[np.bool_] = (
        (draws > 0) & (counts >= 0).all(axis=1) & (counts.sum(axis=1, dtype=np.int64) == draws)
    )
    return adding_up
