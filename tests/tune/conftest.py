"""One Ray on this machine and one finished sweep, for all tests of sweeps.

Ray and MLflow, which take seconds to import, are imported by the fixtures that need them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tune.runs import FinishedSweep
    from tune.cluster import ClusterSize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use this Ray: its processes take all of a machine, so there is one."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[ClusterSize]:
    import ray

    from tune.cluster import cluster_size

    # More room than the machine has, so that helpers find some beside trials.
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield cluster_size()
    ray.shutdown()


@pytest.fixture(scope="session")
def finished(local_ray: ClusterSize, tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    from tests.tune.runs import finished_sweep, write_sweep

    return finished_sweep(local_ray, write_sweep(tmp_path_factory.mktemp("finished")))
