"""Run a command and end it, with everything it started, when the process that asked for it ends.

`python guard.py SECONDS COMMAND...` must lead its own process group, which the command then shares.
It ends the group when the command ends or when standard input closes, and the operating system
closes that pipe however its writer dies, `kill -9` included. (Linux's parent-death signal reaches
only a direct child, and MLflow's web server is a grandchild.) Only the standard library is
imported: this file runs by its path, beside the server for as long as that lives.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

_POLL_SECONDS = 0.2


def run_guarded(command: list[str], grace_seconds: float) -> None:
    """Run `command` until it ends or standard input closes, then end this process group.

    The group gets SIGTERM, `grace_seconds` to act on it, and SIGKILL. The guard belongs to the
    group, so this function does not return.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        if select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            break
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace_seconds)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Read the arguments and guard the command."""
    if os.getpgrp() != os.getpid():
        sys.exit("guard.py: start it as the leader of a new process group")
    # A handler, unlike SIG_IGN, is not inherited: the command still ends on these signals.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    run_guarded(sys.argv[2:], grace_seconds=float(sys.argv[1]))


if __name__ == "__main__":
    main()
