"""Two hosts on this machine, and a Ray cluster over them that asks for a token.

Each host has its own network, mounts, processes and name (Linux namespaces), and a cable joins the
two. Where that is not permitted, both are this machine, with a raylet each on a loopback address.
"""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.mlflow_server.processes import command_line, descendants, eventually, free_port

NAMESPACES = ("--net", "--mount", "--uts", "--pid")
START_SECONDS = 60
RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Host:
    """A machine, as far as processes on it can tell.

    Attributes:
        name: of the machine.
        address: in the network of the two.
        init: the process whose end is the end of all processes of the host; None where the host is
            this machine.
        started: processes that were started on it.
    """

    name: str
    address: str
    init: int | None
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(
        self, *command: object, environment: Mapping[str, str], **options: Any
    ) -> "subprocess.Popen[str]":
        """Start a command on the host."""
        arguments = [str(argument) for argument in command]
        if self.init is not None:
            arguments = ["nsenter", f"--target={self.init}", *NAMESPACES, "--", *arguments]
        process = subprocess.Popen(
            arguments, env=dict(environment), text=True, start_new_session=True, **options
        )
        self.started.append(process)
        return process

    def run(
        self, *command: object, environment: Mapping[str, str], timeout: float = START_SECONDS
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host to its end."""
        process = self.start(
            *command, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            _end(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def hide(self, path: Path) -> None:
        """Let the host see an empty folder in a folder's place."""
        assert self.init is not None
        done = self.run("mount", "-t", "tmpfs", "none", path, environment=os.environ)
        assert done.returncode == 0, done.stderr

    def pids(self, title: str) -> set[int]:
        """Return the processes, as this machine numbers them, whose program's name begins so."""
        lines = {pid: line for process in self.started for pid, line in _family(process).items()}
        return {
            pid
            for pid, line in lines.items()
            if line.partition(" ")[0].rpartition("/")[2].startswith(title)
        }


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster over two hosts.

    Attributes:
        address: HOST:PORT, as `--address` takes it.
        jobs: address at which jobs are submitted.
        environment: of whoever knows the token.
        without_token: of whoever does not.
    """

    head: Host
    second: Host
    address: str
    jobs: str
    environment: Mapping[str, str]
    without_token: Mapping[str, str]


@cache
def namespaces_refused() -> str | None:
    """Say why hosts cannot have a network of their own here; None if they can."""
    if missing := [
        name for name in ("unshare", "nsenter", "setpriv", "ip") if shutil.which(name) is None
    ]:
        return f"{missing[0]} is not installed"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
    )
    return tried.stderr.strip() or None


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yield two hosts that reach each other and nothing else; all that ran on them ends with it."""
    with ExitStack() as hosts:
        if why := namespaces_refused():
            print(f"two raylets on this machine: namespaces are not permitted ({why})")
            first = hosts.enter_context(_ended(Host("first", "127.0.0.2", None)))
            yield first, hosts.enter_context(_ended(Host("second", "127.0.0.3", None)))
            return
        first = hosts.enter_context(_host("first", "10.77.0.1"))
        second = hosts.enter_context(_host("second", "10.77.0.2"))
        # Anonymous namespaces: the cable has no name outside, and goes with them.
        ends = [f"name cable netns {first.init}", f"peer name cable netns {second.init}"]
        _ip(f"link add {ends[0]} type veth {ends[1]}")
        for host in (first, second):
            for line in ("lo up", "cable up"):
                _ip(f"link set {line}", host)
            _ip(f"address add {host.address}/24 dev cable", host)
        yield first, second


@contextmanager
def ray_cluster(
    folder: Path, *, cpus: int, before: Callable[[Host, Host], None] | None = None
) -> Iterator[Cluster]:
    """Start Ray on two hosts as the README says, with token authentication.

    Args:
        folder: for the token and for Ray's own files.
        cpus: that each host claims to have.
        before: what to do to the hosts before Ray runs on them.
    """
    token = folder / "ray-token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    places = [str(Path(__file__).parents[2]), inherited.get("PYTHONPATH", "")]
    path = f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}"
    plain = {
        **inherited,
        "PATH": path,
        "PYTHONPATH": ":".join(filter(None, places)),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    secret = {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with two_hosts() as (head, second):
        port, jobs = free_port(), free_port()
        address = f"{head.address}:{port}"
        if before is not None:
            before(head, second)
        common = [f"--num-cpus={cpus}", f"--object-store-memory={10**8}", "--block"]
        for host, role in (
            (head, ["--head", f"--port={port}", "--dashboard-host", head.address]),
            (second, [f"--address={address}"]),
        ):
            if host.init is not None:
                own = folder / host.name
                own.mkdir()
                Path("/tmp/ray").mkdir(exist_ok=True)
                # What Ray keeps of other clusters on this machine is none of theirs.
                mounted = host.run("mount", "--bind", own, "/tmp/ray", environment=plain)
                assert mounted.returncode == 0, mounted.stderr
            more = [f"--dashboard-port={jobs}"] if host is head else []
            log = folder / f"{host.name}.log"
            with log.open("w") as out:
                process = host.start(
                    *(RAY, "start", *role, *more, f"--node-ip-address={host.address}", *common),
                    environment=secret,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            up = eventually(
                lambda log=log, process=process: (  # type: ignore[misc]
                    "Ray runtime started" in log.read_text() or process.poll() is not None
                ),
                START_SECONDS,
            )
            assert up and process.poll() is None, log.read_text()
        yield Cluster(head, second, address, f"http://{head.address}:{jobs}", secret, plain)


@contextmanager
def _host(name: str, address: str) -> Iterator[Host]:
    # The host ends with this process, even if that is killed.
    with_this = ["setpriv", "--pdeathsig", "KILL"]
    own = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"]
    holder = subprocess.Popen(
        [*with_this, *own],
        start_new_session=True,
        # It complains when the host's first process is killed.
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: "sleep" in "".join(descendants(holder.pid).values()), 10)
        (init,) = descendants(holder.pid)
        host = Host(name, address, init)
        named = host.run("hostname", name, environment=os.environ)
        assert named.returncode == 0, named.stderr
        with _ended(host):
            yield host
    finally:
        # The kernel kills all processes of the host with the first.
        _kill(init)
        holder.wait(10)


@contextmanager
def _ended(host: Host) -> Iterator[Host]:
    try:
        yield host
    finally:
        for process in host.started:
            _end(process)


def _family(process: "subprocess.Popen[str]") -> dict[int, str]:
    return {process.pid: command_line(process.pid), **descendants(process.pid)}


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and those below it, if they still run."""
    for pid in _family(process) if process.poll() is None else ():
        _kill(pid)
    process.wait(10)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _ip(arguments: str, host: Host | None = None) -> None:
    command = ["ip", *shlex.split(arguments)]
    if host is None:
        subprocess.run(command, check=True)
    else:
        assert host.run(*command, environment=os.environ).returncode == 0, arguments
