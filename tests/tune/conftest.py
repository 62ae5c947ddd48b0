"""One Ray on this machine and one finished sweep, for all tests of sweeps."""

import logging
from collections.abc import Iterator

import pytest
import ray

from tests.tune.runs import FinishedSweep, decrop, only_sweep, running_on, write_sweep
from tune.cluster import ClusterSize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use this Ray: its processes take all of a machine, so there is one."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[ClusterSize]:
    # More room than the machine has, so that helpers find some beside trials.
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield ClusterSize(4.0, ray.cluster_resources().get("GPU", 0.0))
    ray.shutdown()


@pytest.fixture(scope="session")
def finished(local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    folder = tmp_path_factory.mktemp("finished")
    with running_on(local_ray):
        ran = decrop("sweep", write_sweep(folder), "--out", folder / "sweeps", "--json")
    assert ran.code == 0, ran.out + ran.err
    return FinishedSweep(ran, only_sweep(folder / "sweeps"))
