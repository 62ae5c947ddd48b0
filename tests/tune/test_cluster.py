"""What a sweep claims of a cluster, and addresses at which there is none."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from decrop.errors import InputError, RunError
from tests.mlflow_server.processes import free_port
from tests.refusals import one_line
from tests.tune.runs import write_sweep
from tune.cluster import (
    Claim,
    Claims,
    ClusterSize,
    Machines,
    _require_short_sockets,
    claims,
    cluster,
    cluster_size,
    local_size,
)
from tune.sweep import _on_gpus
from tune.sweep_file import ResourceSettings, load_sweep

CPUS_ONLY = ClusterSize((Machines(cpu=8, gpu=0),))
WITH_GPUS = ClusterSize((Machines(cpu=8, gpu=2),))


def settings(**given: Any) -> ResourceSettings:
    return ResourceSettings.model_validate(given)


def refused(given: ResourceSettings, size: ClusterSize) -> str:
    return one_line(claims, given, size)


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
    assert f"resources.{process}.{setting}, but no machine of the cluster has more than" in message
    assert f"--set resources.{process}.{name}={there} or less" in message


TWO_SMALL = ClusterSize((Machines(1, 0, count=2),))
APART = ClusterSize((Machines(16, 0), Machines(2, 8)))


def test_a_claim_must_fit_one_machine() -> None:
    message = refused(settings(trial={"cpu": 2}), TWO_SMALL)
    assert message.startswith("resources.trial.cpu = 2, but no machine of the cluster has more")
    message = refused(settings(trial={"cpu": 4}), APART)
    assert "no machine of the cluster has both 4 CPUs and 0.5 GPUs" in message
    assert "16 CPUs and 0 GPUs, 2 CPUs and 8 GPUs" in message
    assert claims(settings(trial={"cpu": 4, "gpu": 0}, helper={"gpu": 0}), APART).trial.gpu == 0


def test_a_cluster_may_grow_to_what_is_claimed() -> None:
    gpus = {"cpu": 32, "gpu": 8, "count": 8}
    given = settings(trial={"cpu": 4, "gpu": 0.5}, autoscaling=[{"cpu": 1}, gpus])
    claimed = claims(given, TWO_SMALL)
    assert claimed.trial == Claim(4, 0.5)
    # What an autoscaler adds machines for must be asked for.
    assert claimed.trials_at_once(TWO_SMALL) == 64
    # It waits for GPUs rather than to begin on the CPUs that are there.
    assert claims(settings(autoscaling=[gpus]), TWO_SMALL).trial.gpu == 0.5
    assert claims(settings(), TWO_SMALL.growing_to([Machines(32, 8)])).trial.gpu == 0.5


def test_gpus_are_claimed_by_what_computes_on_them() -> None:
    assert claims(settings(), WITH_GPUS, "cuda").trial == Claim(1, 0.5)
    on_cpus = claims(settings(), WITH_GPUS, "cpu")
    assert on_cpus.trial == on_cpus.helper == Claim(1, 0)
    for given, size in ((settings(trial={"gpu": 0}), WITH_GPUS), (settings(), CPUS_ONLY)):
        with pytest.raises(InputError, match=r"execution\.device = cuda, but trials claim no GPU"):
            claims(given, size, "cuda")


def test_a_long_folder_of_temporary_files_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    # Ray's session takes 68 bytes of the 107.
    monkeypatch.setenv("TMPDIR", f"/{'x' * 39}")
    with pytest.raises(InputError, match=r"TMPDIR=/x+: is 1 bytes too long.* RAY_TMPDIR"):
        _require_short_sockets()
    monkeypatch.setenv("RAY_TMPDIR", f"/{'x' * 38}")
    _require_short_sockets()


def test_a_sweep_that_began_on_gpus_does_not_go_on_without(tmp_path: Path) -> None:
    begun = _on_gpus(load_sweep(str(write_sweep(tmp_path, resources={"trial": {"cpu": 1}}))), 0.5)
    assert "resources.trial.gpu = 0.5" in refused(begun.resources, CPUS_ONLY)


def test_what_an_autoscaler_has_told_ray_is_known(local_ray: ClusterSize) -> None:
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
    from ray.experimental import internal_kv

    groups = [
        NodeGroupConfig(name="head", resources={"CPU": 2}, max_count=1),
        NodeGroupConfig(name="gpus", resources={"CPU": 16, "GPU": 4}, max_count=-1),
    ]
    place = {"namespace": ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()}
    key = ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode()
    told = ClusterConfig(node_group_configs=groups).SerializeToString()
    internal_kv._internal_kv_put(key, told, overwrite=True, **place)
    try:
        growth = cluster_size().growth
    finally:
        internal_kv._internal_kv_del(key, **place)
    assert growth[0] == Machines(2, 0, 1)
    assert (growth[1].cpu, growth[1].gpu) == (16, 4) and growth[1].count > 1000
    assert cluster_size() == local_ray


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


def test_a_ray_that_does_not_start_here_is_one_line(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(ray, "init", late)
    with (
        pytest.raises(RunError, match=r"did not start .* timed out .*; where others"),
        cluster(None),
    ):
        pass


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


def test_the_processors_in_words_leave_out_what_there_is_none_of() -> None:
    assert ClusterSize((Machines(1, 0),)).processors == "1 CPU"
    assert ClusterSize((Machines(8, 1), Machines(0.5, 2))).processors == "8.5 CPUs and 3 GPUs"
