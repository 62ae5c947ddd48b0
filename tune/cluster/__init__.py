"""The Ray cluster a sweep runs on, and files that start one."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch

from decrop.errors import InputError, RunError
from decrop.wording import counted

# Helpers import this module too, and know no sweep files.
if TYPE_CHECKING:
    from tune.sweep_file import Resources, ResourceSettings

# Shares of a GPU where a sweep does not say: two trials, or four helpers, keep one busy.
_TRIAL_GPU, _HELPER_GPU = 0.5, 0.25
_ROUNDING = 1e-9
# Machines of an autoscaler that knows no limit.
_ENDLESS = 2**16
_ANSWER_SECONDS = 5.0
_STATUS_SECONDS = 30.0
# Of a Unix socket in Linux, and the longest name that Ray gives one, with a process id of 7 digits.
_SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


@dataclass(frozen=True)
class Claim:
    """What one process takes of a machine; a fraction of a GPU shares it."""

    cpu: float
    gpu: float


@dataclass(frozen=True)
class Machines:
    """So many machines that are alike, and the CPUs and GPUs that each has."""

    cpu: float
    gpu: float
    count: int = 1

    def room(self, claim: Claim) -> int:
        """Return how many processes with a claim run on them side by side."""
        on_each = int(self.cpu / claim.cpu + _ROUNDING)
        if claim.gpu > 1:
            on_each = min(on_each, int(self.gpu / claim.gpu + _ROUNDING))
        elif claim.gpu > 0:
            # Shares of one GPU each.
            on_each = min(on_each, int(self.gpu + _ROUNDING) * int(1 / claim.gpu + _ROUNDING))
        return self.count * on_each


@dataclass(frozen=True)
class ClusterSize:
    """The machines of a cluster.

    Attributes:
        growth: all machines once an autoscaler has let it grow as far as it may, as Ray knows them.
    """

    machines: tuple[Machines, ...]
    growth: tuple[Machines, ...] = ()

    @property
    def cpu(self) -> float:
        """CPUs of all machines."""
        return sum(machines.count * machines.cpu for machines in self.machines)

    @property
    def gpu(self) -> float:
        """GPUs of all machines."""
        return sum(machines.count * machines.gpu for machines in self.machines)

    @property
    def processors(self) -> str:
        """Both in words; GPUs only if there are any."""
        cpus = counted(self.cpu, "CPU")
        return f"{cpus} and {counted(self.gpu, 'GPU')}" if self.gpu else cpus

    def room(self, claim: Claim) -> int:
        """Return how many processes with a claim run side by side, each on one machine, at most."""
        there, grown = (
            sum(machines.room(claim) for machines in some) for some in (self.machines, self.growth)
        )
        return max(there, grown)

    def growing_to(self, machines: Sequence[Machines]) -> "ClusterSize":
        """Return the same cluster, which may grow to so many machines too."""
        return replace(self, growth=(*self.growth, *machines))


@dataclass(frozen=True)
class Claims:
    """What the processes of a sweep take.

    Attributes:
        max_helpers: helpers of one trial at a time.
        max_concurrent: trials at a time; None for as many as fit.
        growth: machines that the sweep says the cluster may grow to.
    """

    trial: Claim
    helper: Claim
    max_helpers: int
    max_concurrent: int | None
    growth: tuple[Machines, ...] = ()

    def trials_at_once(self, size: ClusterSize) -> int:
        """Return how many trials run side by side on a cluster, at least one."""
        fit = size.growing_to(self.growth).room(self.trial)
        return max(1, min(fit, self.max_concurrent or fit))


def local_size() -> ClusterSize:
    """Return what a cluster started on this machine will have."""
    here = Machines(len(os.sched_getaffinity(0)), torch.cuda.device_count())
    return ClusterSize((here,))


def cluster_size() -> ClusterSize:
    """Return what the cluster has that this process is connected to."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ClusterSize(tuple(_machines(node) for node in alive), _growth())


def _machines(resources: Mapping[str, float], count: int = 1) -> Machines:
    return Machines(resources.get("CPU", 0.0), resources.get("GPU", 0.0), count)


def _growth() -> tuple[Machines, ...]:
    """Return what the cluster may grow to, if its autoscaler has told Ray."""
    # Ray has no public way to ask.
    with suppress(Exception):
        from ray._private.state import state

        if (config := state.get_cluster_config()) is not None:
            return tuple(
                _machines(group.resources, group.max_count if group.max_count >= 0 else _ENDLESS)
                for group in config.node_group_configs
            )
    return ()


@contextmanager
def cluster(address: str | None) -> Iterator[ClusterSize]:
    """Connect to a cluster, or start one on this machine, for the length of a block.

    Args:
        address: of a running cluster (`auto` or HOST:PORT); None starts one on this machine.

    Raises:
        RunError: the one on this machine does not start.
    """
    if address is None:
        _require_short_sockets()
        size = local_size()
        try:
            # `local`, for Ray would otherwise join a cluster that runs on this machine.
            ray.init(
                address="local",
                num_cpus=int(size.cpu),
                # Idle workers that are kept. Ray keeps as many as CPUs are free, so on a busy
                # machine it would kill each helper between two leases, and importing PyTorch takes
                # longer.
                _system_config={"num_workers_soft_limit": 2 * int(size.cpu)},
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # Ray has no narrower one for a node that does not start.
            raise RunError(
                f"Ray did not start on this machine ({_first_line(error)}); where others keep the "
                "machine busy, try again later."
            ) from None
    else:
        try:
            if address != "auto":
                _require_listener(address)
            _require_welcome(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({_first_line(error)}); start "
                "one with `ray start --head`, or leave the option out to use this machine."
            ) from None
    try:
        yield cluster_size()
    finally:
        ray.shutdown()


def claims(
    settings: "ResourceSettings",
    size: ClusterSize,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Claims:
    """Fill in the GPU shares that a sweep leaves open, and refuse what could never be met.

    Args:
        device: that its trials are to compute on (`ExecutionSettings.device`).
    """
    growth = tuple(Machines(kind.cpu, kind.gpu, kind.count) for kind in settings.autoscaling)
    size = size.growing_to(growth)
    trial = _claim("trial", settings.trial, 0.0 if device == "cpu" else _TRIAL_GPU, size)
    if device == "cuda" and trial.gpu == 0:
        raise InputError(
            "execution.device = cuda, but trials claim no GPU (resources.trial.gpu = 0, or a "
            "cluster without one); use --set execution.device=auto, or claim a GPU."
        )
    return Claims(
        trial=trial,
        helper=_claim("helper", settings.helper, _HELPER_GPU if trial.gpu > 0 else 0.0, size),
        max_helpers=settings.max_helpers,
        max_concurrent=settings.max_concurrent,
        growth=growth,
    )


def _claim(name: str, asked: "Resources", gpu_share: float, size: ClusterSize) -> Claim:
    machines = (*size.machines, *size.growth)
    most_cpu = max((machine.cpu for machine in machines), default=0.0)
    most_gpu = max((machine.gpu for machine in machines), default=0.0)
    gpu = asked.gpu if asked.gpu is not None else gpu_share if most_gpu > 0 else 0.0
    for kind, wanted, most in (("cpu", asked.cpu, most_cpu), ("gpu", gpu, most_gpu)):
        if wanted > most:
            raise InputError(
                f"resources.{name}.{kind} = {wanted:g}, but no machine of the cluster has more "
                f"than {most:g}; use --set resources.{name}.{kind}={most:g} or less."
            )
    claim = Claim(asked.cpu, gpu)
    if not any(machine.room(claim) for machine in machines):
        kinds = dict.fromkeys(
            f"{counted(m.cpu, 'CPU')} and {counted(m.gpu, 'GPU')}" for m in machines
        )
        raise InputError(
            f"resources.{name}: no machine of the cluster has both {counted(claim.cpu, 'CPU')} and "
            f"{counted(claim.gpu, 'GPU')}; its machines have {', '.join(kinds)}. Lower "
            f"resources.{name}.cpu or resources.{name}.gpu."
        )
    return claim


def bound_memory(gpu: float) -> None:
    """Let this process allocate no more of its GPU's memory than its share of the GPU.

    What is tried for size, such as batches of samples, is tried within it.
    """
    if 0 < gpu < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpu)


def _require_short_sockets() -> None:
    """Refuse temporary folders below which Ray's sockets would have longer paths than Linux takes.

    Ray would say so in a traceback.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    if name is None:
        return
    folder = os.environ[name]
    excess = len(os.fsencode(Path(folder, _LONGEST_SOCKET))) - _SOCKET_PATH_BYTES
    if excess > 0:
        raise InputError(
            f"{name}={folder}: is {excess} bytes too long, for paths of Ray's sockets below it may "
            f"have {_SOCKET_PATH_BYTES}; set RAY_TMPDIR to a shorter folder, such as /tmp."
        )


def _require_listener(address: str) -> None:
    """Refuse at once what Ray would try to reach for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--address {address}: must be auto or HOST:PORT.")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


def _require_welcome(address: str) -> None:
    """Refuse at once where a token is missing; Ray would try for long and not say why.

    Asked by Ray's own command, because its client ends the process where a token cannot be read.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    asked = subprocess.run(
        command, capture_output=True, text=True, timeout=_STATUS_SECONDS, check=False
    )
    if asked.returncode == 0:
        return
    if "token" in asked.stderr.lower():
        raise InputError(
            f"--address {address}: the cluster wants a token, and this process has another or none;"
            " set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that the cluster was "
            "started with."
        )
    raise ConnectionError(asked.stderr.strip().rpartition("\n")[2] or "ray status failed")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
