"""Helpers on GPUs: they compute on the one that Ray gave them, and leave nothing behind."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.tune.logical_gpus import CERTIFICATIONS
from tests.tune.sharding import requests
from tune.cluster import Claim
from tune.shards import _HelpersOnGpus

ASKED = requests(1)


class Actors:
    """Takes the place of Ray and its actors; which leases are answered is up to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[Actor] = []
        self.killed: list[Actor] = []
        self.answered: set[str] = set()
        monkeypatch.setattr(ray, "remote", lambda **_: lambda actor: self)
        monkeypatch.setattr("tune.shards.hardware_of", lambda device: "a GPU")
        monkeypatch.setattr("tune.shards._gpu_model", dict)
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "kill", self.killed.append)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)

    def remote(self, *_: Any) -> "Actor":
        self.begun.append(Actor(len(self.begun)))
        return self.begun[-1]

    def wait(self, leases: Sequence[str], **_: Any) -> tuple[list[str], list[str]]:
        done = [lease for lease in leases if lease in self.answered]
        return done, [lease for lease in leases if lease not in done]


class Actor:
    def __init__(self, number: int) -> None:
        self.sample = self
        self._name, self._leases = f"actor {number}", 0

    def remote(self, _: Any) -> str:
        self._leases += 1
        return f"{self._name}, lease {self._leases}"


def helpers(most: int = 2) -> _HelpersOnGpus:
    return _HelpersOnGpus("task", Claim(1, 0.25), torch.device("cuda"), most)


def test_a_helper_takes_one_lease_at_a_time_and_is_kept_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors, gpus = Actors(monkeypatch), helpers()
    first, second = gpus.begin(ASKED), gpus.begin(ASKED)
    assert not gpus.take_more()
    # As at the end of a round: it samples still, or is only starting.
    gpus.drop(second)
    assert not gpus.take_more()
    actors.answered.add(first)
    assert gpus.take_more()
    assert gpus.begin(ASKED) == "actor 0, lease 2"
    actors.answered.add(second)
    assert gpus.take_more() and gpus.begin(ASKED) == "actor 1, lease 2"
    assert len(actors.begun) == 2 and not actors.killed


def test_a_helper_that_fails_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    actors, gpus = Actors(monkeypatch), helpers(most=1)
    lease = gpus.begin(ASKED)
    actors.answered.add(lease)
    gpus.lose(lease)
    assert actors.killed == actors.begun
    assert gpus.take_more() and gpus.begin(ASKED) == "actor 1, lease 1"


def test_helpers_give_their_gpus_back_after_a_while_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors, gpus = Actors(monkeypatch), helpers(most=3)
    answered, dropped, wanted = (gpus.begin(ASKED) for _ in range(3))
    actors.answered.add(answered)
    gpus.drop(dropped)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)
    assert gpus.take_more()
    # The third holds a lease that is waited for.
    assert {*actors.killed} == {*actors.begun[:2]}
    assert wanted == "actor 2, lease 1"
    assert gpus.begin(ASKED) == "actor 3, lease 1"
    del gpus
    assert {*actors.killed} == {*actors.begun}


@pytest.mark.ray
@pytest.mark.slow
def test_helpers_use_the_gpus_that_ray_assigns_and_give_them_back(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.tune.logical_gpus", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=290,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["given_back"] == CERTIFICATIONS
    gpus = defaultdict(set)
    for process, seen, assigned in found["marks"]:
        assert seen == assigned
        gpus[process].add(assigned)
    # Each process has one GPU from its start to its end, and not all have the same one.
    assert all(len(assigned) == 1 for assigned in gpus.values())
    assert len(set.union(*gpus.values())) > 1
