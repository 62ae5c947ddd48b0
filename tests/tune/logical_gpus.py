"""Certifications one after another with helpers on logical GPUs, and others that come and go.

Run as a process of its own: `python -m tests.tune.logical_gpus FOLDER` starts a Ray with four GPUs
that are only counted, and prints what the helpers saw of theirs as one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch

from decrop.smoothing.execution import hardware_of
from tests.mlflow_server.processes import eventually, is_alive
from tests.tune.sharding import (
    CPU,
    Elsewhere,
    Watched,
    counts_of_one_process,
    requests,
    sampling_task,
)
from tune.cluster import Claim

GPUS, HELPERS, CERTIFICATIONS = 4, 2, 2
VARIABLE = "CUDA_VISIBLE_DEVICES"


class SeesGpus(Elsewhere):
    """Leaves a file for each batch: GPUs seen when the sampler was made, and those assigned now."""

    def __init__(self, marks: Path) -> None:
        super().__init__(seconds_here=0.1)
        self.marks = marks
        self.seen = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.seen = os.environ.get(VARIABLE, "none")

    def elsewhere(self) -> None:
        assigned = ",".join(str(number) for number in ray.get_gpu_ids())
        name = f"{os.getpid()}-{time.monotonic_ns()}"
        (self.marks / name).write_text(json.dumps([os.getpid(), self.seen, assigned]))


@ray.remote(num_gpus=1, num_cpus=0)
def _another(seconds: float) -> None:
    time.sleep(seconds)


def _free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0.0))


def main(marks: Path) -> None:
    ray.init(address="local", num_cpus=8, num_gpus=GPUS, include_dashboard=False)
    task = sampling_task(SeesGpus(marks))
    asked = requests(3)
    expected = counts_of_one_process(task, asked)
    given_back = 0
    for certification in range(CERTIFICATIONS):
        # Takes the first GPUs while the helpers of this certification begin.
        held = [_another.remote(20.0) for _ in range(certification)]
        with (
            patch("tune.shards.LocalSampler", _OnCpu),
            patch("tune.shards.hardware_of", lambda device: "a GPU"),
        ):
            sampler = Watched(task, torch.device("cuda"), helper=Claim(1, 0.5), max_helpers=HELPERS)
        helpers: Any = sampler._helpers
        reference, _, _, claim = helpers._arguments
        helpers._arguments = reference, "cpu", hardware_of(CPU), claim
        before = len(list(marks.iterdir()))

        def helped(sampler: Watched = sampler, before: int = before) -> bool:
            np.testing.assert_array_equal(sampler.class_counts(asked), expected)
            return sampler.leases_by_helpers >= 10 and len(list(marks.iterdir())) > before

        assert eventually(helped, 240)
        ray.get(held)
        del sampler, helpers, helped
        given_back += eventually(lambda: _free_gpus() == GPUS, 60)
        processes = {int(mark.name.partition("-")[0]) for mark in marks.iterdir()}
        assert eventually(lambda pids=processes: not any(map(is_alive, pids)), 30)  # type: ignore[misc]
    print(
        json.dumps(
            {
                "marks": [json.loads(mark.read_text()) for mark in marks.iterdir()],
                "given_back": given_back,
            }
        )
    )
    ray.shutdown()


def _OnCpu(task: Any, device: torch.device) -> Any:  # noqa: N802  # in a class's place
    from decrop.smoothing.sampling import LocalSampler

    return LocalSampler(task, CPU)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
