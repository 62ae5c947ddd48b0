"""What a sweep claims of a cluster, and addresses at which there is none."""

import os
import time
from typing import Any

import pytest
import ray
import torch

from decrop.errors import InputError
from tests.mlflow_server.processes import free_port
from tune.cluster import Claim, Claims, ClusterSize, Machines, claims, cluster, local_size
from tune.sweep_file import ResourceSettings

CPUS_ONLY = ClusterSize((Machines(cpu=8, gpu=0),))
WITH_GPUS = ClusterSize((Machines(cpu=8, gpu=2),))


def settings(**given: Any) -> ResourceSettings:
    return ResourceSettings.model_validate(given)


def refused(given: ResourceSettings, size: ClusterSize) -> str:
    with pytest.raises(InputError) as error:
        claims(given, size)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray is asked for a cluster")

    monkeypatch.setattr(ray, "init", start)


def test_gpu_shares_are_claimed_where_there_are_gpus() -> None:
    assert claims(settings(), CPUS_ONLY) == Claims(
        trial=Claim(1, 0), helper=Claim(1, 0), max_helpers=4, max_concurrent=None
    )
    assert claims(settings(), WITH_GPUS) == Claims(
        trial=Claim(1, 0.5), helper=Claim(1, 0.25), max_helpers=4, max_concurrent=None
    )


def test_what_a_sweep_says_is_claimed_as_it_is() -> None:
    given = settings(
        trial={"cpu": 2.5, "gpu": 1},
        helper={"cpu": 0.5, "gpu": 0},
        max_helpers=7,
        max_concurrent=3,
    )
    assert claims(given, WITH_GPUS) == Claims(
        trial=Claim(2.5, 1), helper=Claim(0.5, 0), max_helpers=7, max_concurrent=3
    )


def test_all_there_is_may_be_claimed() -> None:
    given = settings(trial={"cpu": 8, "gpu": 2}, helper={"cpu": 8})
    assert claims(given, WITH_GPUS).trial == Claim(8, 2)


@pytest.mark.parametrize(
    ("machines", "claim", "room"),
    [
        ([(2, 0)], Claim(0.75, 0), 2),
        ([(0.3, 0)], Claim(0.1, 0), 3),
        ([(64, 1)], Claim(1, 0.5), 2),
        ([(2, 8)], Claim(1, 0.5), 2),
        # 0.6 of a GPU leaves nothing that another trial could take, 0.4 of it on each.
        ([(64, 3)], Claim(1, 0.6), 3),
        ([(64, 3)], Claim(1, 0.4), 6),
        ([(64, 3)], Claim(1, 2), 1),
        # What two machines have together runs no trial.
        ([(1, 0), (1, 0)], Claim(2, 0), 0),
        ([(4, 0), (1, 4)], Claim(2, 1), 0),
        ([(4, 0), (16, 8, 8)], Claim(1, 0.5), 128),
    ],
)
def test_a_process_runs_on_one_machine(
    machines: list[tuple[float, ...]], claim: Claim, room: int
) -> None:
    assert ClusterSize(tuple(Machines(*given) for given in machines)).room(claim) == room


def test_trials_side_by_side_are_limited_by_the_cluster_and_by_the_sweep() -> None:
    sixteen = ClusterSize((Machines(16, 0),))
    assert claims(settings(), sixteen).trials_at_once(sixteen) == 16
    assert claims(settings(max_concurrent=3), sixteen).trials_at_once(sixteen) == 3
    assert claims(settings(max_concurrent=99), sixteen).trials_at_once(sixteen) == 16
    # While the machines are away.
    assert claims(settings(), sixteen).trials_at_once(ClusterSize(())) == 1


@pytest.mark.parametrize("process", ["trial", "helper"])
@pytest.mark.parametrize(
    ("resources", "size", "setting", "there"),
    [
        ({"cpu": 8.5}, CPUS_ONLY, "cpu = 8.5", "8"),
        ({"gpu": 0.5}, CPUS_ONLY, "gpu = 0.5", "0"),
        ({"gpu": 3}, WITH_GPUS, "gpu = 3", "2"),
    ],
)
def test_more_than_there_is_is_refused(
    process: str, resources: dict[str, float], size: ClusterSize, setting: str, there: str
) -> None:
    message = refused(settings(**{process: resources}), size)
    name = setting.split()[0]
    assert f"resources.{process}.{setting}, but the cluster has {there};" in message
    assert f"--set resources.{process}.{name}={there} or less" in message


def test_a_cluster_of_this_machine_has_the_cores_this_process_may_use() -> None:
    here = Machines(len(os.sched_getaffinity(0)), torch.cuda.device_count())
    assert local_size() == ClusterSize((here,))


def test_an_address_at_which_nothing_listens_is_refused_at_once(no_ray: None) -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(InputError) as error, cluster(address):
        pass
    assert time.monotonic() - started < 10
    message = str(error.value)
    assert message.startswith(f"--address {address}: no Ray cluster answers there (")
    assert "ray start --head" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "address", ["", "nonsense", "localhost", "localhost:", ":6379", "host:70000", "ray://a:b"]
)
def test_what_is_no_address_is_refused(no_ray: None, address: str) -> None:
    with pytest.raises(InputError, match="must be auto or HOST:PORT"), cluster(address):
        pass


def test_where_no_cluster_is_known_auto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nSee the manual.")

    monkeypatch.setattr("tune.cluster._require_welcome", lambda address: None)
    monkeypatch.setattr(ray, "init", start)
    why = r"--address auto: .*\(Could not find any running Ray instance\.\)"
    with pytest.raises(InputError, match=why), cluster("auto"):
        pass


def test_a_cluster_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda **given: calls.append(given))
    there = {"Alive": True, "Resources": {"CPU": 3.0, "memory": 1e9}}
    gone = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [there, gone])
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(RuntimeError), cluster(None) as size:
        assert size == ClusterSize((Machines(3.0, 0.0),))
        raise RuntimeError
    assert calls[0]["address"] == "local"
    assert calls[0]["num_cpus"] == len(os.sched_getaffinity(0))
    assert calls[1] == "shutdown"
