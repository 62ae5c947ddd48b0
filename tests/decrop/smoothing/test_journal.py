import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import decrop
from decrop.classifiers.classifier import Classifier
from decrop.errors import InputError, RunError
from decrop.smoothing.journal import RecordedSampler
from decrop.smoothing.sampling import (
    ESTIMATION,
    SELECTION,
    CountRequest,
    LocalSampler,
    Sampler,
    SamplingTask,
)

CHUNK = 12
CLASSES = 3
# int64 image id, int32 stream, int64 chunk, int32 samples, int32 counts, uint32 checksum.
RECORD_BYTES = 8 + 4 + 8 + 4 + 4 * (CLASSES + 1) + 4
CPU = torch.device("cpu")
IMAGES = torch.randint(
    0, 256, (4, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGE_IDS = torch.tensor([7, 2**40, 3, 250])
REQUESTS = [
    CountRequest(image, stream, chunk, samples)
    for image in range(4)
    for stream in (SELECTION, ESTIMATION)
    for chunk, samples in enumerate((CHUNK, 5))
]


class WithUnsavedScale(nn.Module):
    """A linear classifier of scaled pixels, whose scale is no part of its saved state."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(16, CLASSES)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.scale * images.flatten(1))
        return logits


def classifier(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), activation(), nn.Linear(8, CLASSES))


def with_unsaved_scale(scale: float) -> nn.Module:
    torch.manual_seed(0)
    return WithUnsavedScale(scale)


def task(**changes: Any) -> SamplingTask:
    settings: dict[str, Any] = {
        "network": classifier(),
        "images": IMAGES,
        "image_ids": IMAGE_IDS,
        "class_count": CLASSES,
        "sigma": 0.5,
        "seed": 0,
        "chunk_size": CHUNK,
        "chunks_per_batch": 2,
        "precision": "fp32",
    }
    return SamplingTask(**settings | changes)


class Watched:
    """A sampler that remembers what it was asked."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.asked: list[CountRequest] = []

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        self.asked += requests
        return self._sampler.class_counts(requests)


class Answering:
    """A sampler that always gives the same counts."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self._counts = counts

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        return self._counts


class StuckAfter:
    """A sampler that never answers more than a number of calls; it prints a line at each."""

    def __init__(self, sampler: Sampler, calls: int) -> None:
        self._sampler = sampler
        self._calls = calls

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        print(requests, flush=True)
        if not self._calls:
            time.sleep(600)
        self._calls -= 1
        return self._sampler.class_counts(requests)


def local_counts(sampling: SamplingTask) -> NDArray[np.int64]:
    return LocalSampler(sampling, CPU).class_counts(REQUESTS)


def asked_again(
    path: Path, sampling: SamplingTask, device: torch.device = CPU
) -> list[CountRequest]:
    """Ask for everything, check the counts, and return what the file had no answer to."""
    watched = Watched(LocalSampler(sampling, CPU))
    with RecordedSampler(watched, path, sampling, device) as sampler:
        counts = sampler.class_counts(REQUESTS)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, local_counts(sampling))
    return watched.asked


def test_counts_are_the_samplers_and_are_asked_for_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "counts"
    assert asked_again(path, task()) == REQUESTS
    assert asked_again(path, task()) == []
    with RecordedSampler(Answering(np.zeros((0, 0), int)), path, task(), CPU) as sampler:
        assert sampler.class_counts([]).shape == (0, CLASSES + 1)
        backwards = sampler.class_counts(REQUESTS[::-1])
    assert np.array_equal(backwards, local_counts(task())[::-1])


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    watched = Watched(LocalSampler(task(), CPU))
    with RecordedSampler(watched, path, task(), CPU) as sampler:
        sampler.class_counts(REQUESTS[3:5])
        sampler.class_counts([REQUESTS[9], REQUESTS[4], REQUESTS[9]])
    assert watched.asked == [*REQUESTS[3:5], REQUESTS[9]]
    assert asked_again(path, task()) == [*REQUESTS[:3], *REQUESTS[5:9], *REQUESTS[10:]]
    assert asked_again(path, task()) == []


def test_another_number_of_samples_is_another_request(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    fewer = [dataclasses.replace(request, samples=4) for request in REQUESTS]
    with RecordedSampler(LocalSampler(task(), CPU), path, task(), CPU) as sampler:
        counts = sampler.class_counts(fewer)
    assert np.array_equal(counts, LocalSampler(task(), CPU).class_counts(fewer))


def test_a_torn_last_record_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    whole = path.read_bytes()
    for kept in (0, 1, 8, RECORD_BYTES // 2, RECORD_BYTES - 1):
        path.write_bytes(whole[: len(whole) - RECORD_BYTES + kept])
        assert asked_again(path, task()) == REQUESTS[-1:]
        assert path.read_bytes() == whole


def test_a_record_with_a_flipped_bit_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    whole = path.read_bytes()
    for bit in range(8 * RECORD_BYTES):
        damaged = bytearray(whole)
        damaged[len(whole) - 2 * RECORD_BYTES + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        RecordedSampler(Answering(np.zeros(0, int)), path, task(), CPU).close()
        assert path.read_bytes() == whole[: -2 * RECORD_BYTES]


def test_a_record_of_another_file_is_none_of_this_one(tmp_path: Path) -> None:
    path, other = tmp_path / "counts", tmp_path / "other"
    asked_again(path, task())
    asked_again(other, task(seed=1))
    path.write_bytes(path.read_bytes()[:-RECORD_BYTES] + other.read_bytes()[-RECORD_BYTES:])
    assert asked_again(path, task()) == REQUESTS[-1:]


def test_records_from_a_damaged_one_on_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    whole = path.read_bytes()
    damaged = bytearray(whole)
    # What a machine that lost its power may leave: the file's length, without its bytes.
    damaged[-3 * RECORD_BYTES : -2 * RECORD_BYTES] = bytes(RECORD_BYTES)
    path.write_bytes(damaged)
    assert asked_again(path, task()) == REQUESTS[-3:]
    assert path.read_bytes() == whole


def test_a_file_with_a_damaged_header_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    whole = path.read_bytes()
    for position in range(0, whole.index(b"\n") + 1, 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        RecordedSampler(Answering(np.zeros(0, int)), path, task(), CPU).close()
        assert path.read_bytes() == whole[: whole.index(b"\n") + 1]
    for length in (0, 1, whole.index(b"\n")):
        path.write_bytes(whole[:length])
        assert asked_again(path, task()) == REQUESTS
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "changes",
    [
        {"network": classifier(seed=1)},
        {"network": classifier(activation=nn.Tanh)},
        {"images": IMAGES ^ (torch.arange(64).reshape(4, 1, 4, 4) == 63).byte()},
        {"image_ids": IMAGE_IDS.flip(0)},
        {"sigma": 0.5000001},
        {"seed": 1},
        {"chunk_size": CHUNK + 1},
        {"chunks_per_batch": 3},
        {"precision": "bf16"},
        {"noise": "gaussian"},
    ],
)
def test_another_task_is_asked_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    assert asked_again(path, task(**changes)) == REQUESTS
    assert asked_again(path, task(**changes)) == []
    assert asked_again(path, task()) == REQUESTS


def protected(**changes: Any) -> Classifier:
    """A classifier of three channels, the first of which decides."""
    network = nn.Sequential(nn.Conv2d(3, CLASSES, 4, bias=False), nn.Flatten())
    torch.manual_seed(0)
    nn.init.normal_(network[0].weight)  # type: ignore[arg-type]
    given: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "class_count": CLASSES}
    return Classifier(network, architecture="own", **given | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_order": "bgr"},
        {"input_size": (4, 4)},
        {"mean": (0.5, 0.5, 0.4)},
        {"arguments": {"depth": 2}},
    ],
)
def test_another_use_of_the_same_weights_is_asked_anew(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "counts"
    images = (
        IMAGES.expand(-1, 3, -1, -1) ^ torch.tensor([0, 85, 170], dtype=torch.uint8)[:, None, None]
    )
    asked_again(path, task(network=protected(), images=images))
    assert asked_again(path, task(network=protected(), images=images)) == []
    assert asked_again(path, task(network=protected(**changes), images=images)) == REQUESTS


def test_how_a_file_was_found_is_told(tmp_path: Path) -> None:
    path = tmp_path / "counts"

    def found(sampling: SamplingTask) -> str:
        with RecordedSampler(LocalSampler(sampling, CPU), path, sampling, CPU) as sampler:
            sampler.class_counts(REQUESTS[:2])
        return str(sampler.start)

    assert found(task()) == "counts: begun"
    assert found(task()) == f"counts has {CHUNK + 5} samples: going on from there"
    other = task(network=classifier(seed=1), sigma=0.3)
    expected = "counts is of another certification (network, sigma): begun anew"
    assert found(other) == expected
    path.write_bytes(b"{" + path.read_bytes())
    assert found(other) == "counts is of another certification (damaged header): begun anew"


def test_buffers_that_are_not_saved_are_part_of_the_task(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task(network=with_unsaved_scale(1.0)))
    assert asked_again(path, task(network=with_unsaved_scale(1.0))) == []
    assert asked_again(path, task(network=with_unsaved_scale(-1.0))) == REQUESTS


def test_another_number_of_classes_is_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    asked_again(path, task())
    more = task(class_count=CLASSES + 1)
    counts = np.array([[CHUNK, 0, 0, 0, 0]])
    with RecordedSampler(Answering(counts), path, more, CPU) as sampler:
        assert np.array_equal(sampler.class_counts(REQUESTS[:1]), counts)


def test_other_hardware_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {None: "a GPU", 1: "a GPU", 2: "another GPU"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[device.index])
    path = tmp_path / "counts"
    asked_again(path, task())
    assert asked_again(path, task(), torch.device("cuda")) == REQUESTS
    assert asked_again(path, task(), torch.device("cuda", 1)) == []
    assert asked_again(path, task(), torch.device("cuda", 2)) == REQUESTS


def test_a_sampler_of_another_task_cannot_add_to_a_file_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    other = task(seed=1)
    with (
        RecordedSampler(LocalSampler(other, CPU), path, other, CPU) as of_other_task,
        RecordedSampler(LocalSampler(task(), CPU), path, task(), CPU) as sampler,
    ):
        sampler.class_counts(REQUESTS[:2])
        of_other_task.class_counts(REQUESTS)
    assert asked_again(path, task()) == REQUESTS[2:]


@pytest.mark.parametrize(
    "counts",
    [
        np.tile([12, 0, 0], (2, 1)),
        np.tile([12, 0, 0, 0, 0], (2, 1)),
        np.array([12, 0, 0, 0]),
        np.tile([12, 0, 0, 0], (1, 1)),
        np.array([[12, 0, 0, 0], [12, 0, 0, 0]]),
        np.array([[12, 0, 0, 0], [6, -1, 0, 0]]),
    ],
)
def test_counts_that_are_not_the_requests_are_refused_and_not_kept(
    tmp_path: Path, counts: NDArray[np.int64]
) -> None:
    path = tmp_path / "counts"
    with RecordedSampler(LocalSampler(task(), CPU), path, task(), CPU) as sampler:
        sampler.class_counts(REQUESTS[2:4])
    with RecordedSampler(Answering(counts), path, task(), CPU) as sampler:
        before = path.read_bytes()
        with pytest.raises(RunError, match="a sampler gave counts"):
            sampler.class_counts(REQUESTS[:4])
        assert path.read_bytes() == before
    assert asked_again(path, task()) == [*REQUESTS[:2], *REQUESTS[4:]]


def test_a_refused_request_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    too_many = dataclasses.replace(REQUESTS[0], samples=CHUNK + 1)
    with RecordedSampler(LocalSampler(task(), CPU), path, task(), CPU) as sampler:
        for _ in range(2):
            with pytest.raises(InputError, match=f"not {CHUNK + 1}"):
                sampler.class_counts([REQUESTS[0], too_many])
    assert asked_again(path, task()) == REQUESTS


def test_images_of_the_same_id_are_refused(tmp_path: Path) -> None:
    same = task(image_ids=torch.tensor([1, 2, 1, 3]))
    with pytest.raises(InputError, match="4 images have 3 ids"):
        RecordedSampler(LocalSampler(same, CPU), tmp_path / "counts", same, CPU)
    assert not (tmp_path / "counts").exists()


def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    answered = 7
    source = str(Path(decrop.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, __file__, str(path), str(answered)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(answered + 1)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert lines == [f"{[request]}\n" for request in REQUESTS[: answered + 1]]
    assert asked_again(path, task()) == REQUESTS[answered:]
    assert asked_again(path, task()) == []


def ask_one_by_one(path: Path, calls: int) -> None:
    stuck = StuckAfter(LocalSampler(task(), CPU), calls)
    with RecordedSampler(stuck, path, task(), CPU) as sampler:
        for request in REQUESTS:
            sampler.class_counts([request])


if __name__ == "__main__":
    ask_one_by_one(Path(sys.argv[1]), int(sys.argv[2]))
