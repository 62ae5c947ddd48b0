"""The Ray cluster a sweep runs on."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch

from decrop.errors import InputError
from tune.sweep_file import ResourceSettings


@dataclass(frozen=True)
class ClusterSize:
    """CPUs and GPUs of all nodes."""

    cpu: float
    gpu: float


def local_size() -> ClusterSize:
    """Return what a cluster started on this machine will have."""
    return ClusterSize(len(os.sched_getaffinity(0)), torch.cuda.device_count())


@contextmanager
def cluster(address: str | None) -> Iterator[ClusterSize]:
    """Connect to a cluster, or start one on this machine, for the length of a block.

    Args:
        address: of a running cluster (`auto` or HOST:PORT); None starts one on this machine.

    Raises:
        InputError: there is no cluster at the address.
    """
    if address is None:
        size = local_size()
        ray.init(
            num_cpus=int(size.cpu),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    else:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({_first_line(error)}); start "
                "one with `ray start --head`, or leave the option out to use this machine."
            ) from None
    try:
        total = ray.cluster_resources()
        yield ClusterSize(total.get("CPU", 0.0), total.get("GPU", 0.0))
    finally:
        ray.shutdown()


def check_resources(settings: ResourceSettings, size: ClusterSize) -> None:
    """Refuse claims that no node together could ever meet.

    Raises:
        InputError: a trial or a helper claims more CPUs or GPUs than the cluster has.
    """
    for name, claim in (("trial", settings.trial), ("helper", settings.helper)):
        for kind, wanted, there in (
            ("cpu", claim.cpu, size.cpu),
            ("gpu", claim.gpu, size.gpu),
        ):
            if wanted > there:
                raise InputError(
                    f"resources.{name}.{kind} = {wanted:g}, but the cluster has {there:g}; "
                    f"use --set resources.{name}.{kind}={there:g} or less."
                )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
