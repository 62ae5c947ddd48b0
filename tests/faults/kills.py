"""The kill matrix: a sweep killed at random moments, again and again, and resumed to its end.

Driver, trial and helper are killed with SIGKILL, several times in one sweep, until all kills are
done. Every sweep is then audited and its certificates are compared with those of an undisturbed
one. What was done is kept in the folder, so that the same command goes on after it was stopped.

    python -m tests.faults.kills --kills 100 --seed 0 --folder build/kills
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from decrop.files import read_json, write_json
from tests.commands import decrop
from tests.faults.sweeps import HELPER_PROCESS, TRIAL_PROCESS, TRIALS, Sweep, write_fixed
from tests.mlflow_server.processes import descendants
from tests.tune.runs import end_session, started

TARGETS = ("driver", "trial", "helper")
TITLES = {"trial": TRIAL_PROCESS, "helper": HELPER_PROCESS}
KILLS_A_SWEEP = 20
# A trial whose process died more often than this under one driver counts as failed.
TRIAL_KILLS_A_DRIVER = 3
# Between two kills, which spans the start of Ray, a trial, and what follows the search.
LONGEST_WAIT = 15.0
# For a process that a target has only at times.
PATIENCE = 60.0
END_SECONDS = 900.0


class KilledSweep:
    """One sweep, from its start through its kills to its end.

    Args:
        folder: of the sweep, which does not exist yet.
        kills: at most.
        chance: decides what is killed and when.
    """

    def __init__(self, folder: Path, kills: int, chance: random.Random) -> None:
        folder.mkdir(parents=True)
        self.sweep = Sweep(folder / "sweeps")
        self.killed: Counter[str] = Counter()
        self.commands = 0
        self._file = write_fixed(folder)
        self._kills = kills
        self._chance = chance
        self._leaders: list[int] = []
        self._process = self._start()
        self._trial_kills = 0

    def run(self) -> str | None:
        """Kill and go on until the sweep has ended; return what went wrong, if anything did."""
        try:
            while self.killed.total() < self._kills and self._kill_once():
                pass
            printed, _ = self._process.communicate(timeout=END_SECONDS)
            return None if self._process.returncode == 0 else str(printed)
        except subprocess.TimeoutExpired:
            return f"it has not ended in {END_SECONDS:g} s"
        finally:
            for leader in self._leaders:
                end_session(leader)
            self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        """Begin the sweep, or go on where one has been recorded; what worked for it may linger."""
        self.commands += 1
        self._trial_kills = 0
        parent = self.sweep.parent
        if any(parent.glob("*/sweep.json")):
            process = started("resume", self.sweep.directory.path)
        else:
            shutil.rmtree(parent, ignore_errors=True)
            process = started("sweep", self._file, "--out", parent)
        self._leaders.append(process.pid)
        return process

    def _kill_once(self) -> bool:
        """Wait, kill one process, and start the driver again if it was the driver; False at an end.

        The pipe of a command holds more than it prints, so nobody needs to read it meanwhile.
        """
        names = [
            name for name in TARGETS if name != "trial" or self._trial_kills < TRIAL_KILLS_A_DRIVER
        ]
        target = self._chance.choice(names)
        self._wait(self._chance.uniform(0, LONGEST_WAIT))
        pid = self._process.pid if target == "driver" else self._find(TITLES[target])
        if self._process.poll() is not None:
            return False
        if pid is None:
            return True
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed[target] += 1
            self._trial_kills += target == "trial"
            print(f"  {self.killed.total()}: {target} (process {pid})", flush=True)
        if target == "driver":
            self._process.communicate()
            self._process = self._start()
        return True

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _find(self, title: str) -> int | None:
        """Wait for a process that works under a title of Ray's."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            for pid, command in descendants(self._process.pid).items():
                if command.startswith(title):
                    return pid
            time.sleep(0.05)
        return None


def undisturbed(folder: Path) -> Sweep:
    """Return a sweep of the same settings that nothing happened to, run where there is none yet."""
    sweep = Sweep(folder / "sweeps")
    if not any(sweep.parent.glob("*/leaderboard.json")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with sweep.running("sweep", write_fixed(folder), "--out", sweep.parent):
            sweep.end()
    return sweep


def one_sweep(folder: Path, kills: int, seed: str, expected: Sweep) -> dict[str, Any]:
    """Run one sweep with kills to its end, and return what became of it."""
    shutil.rmtree(folder, ignore_errors=True)
    run = KilledSweep(folder, kills, random.Random(seed))
    error = run.run()
    found: dict[str, Any] = {"kills": dict(run.killed), "commands": run.commands, "error": error}
    if error is None:
        audited = decrop("audit", run.sweep.directory.path, "--json").last_line
        certificates, wanted = run.sweep.certificates(), expected.certificates()
        differing = sum(certificates.get(name) != rows for name, rows in wanted.items())
        found |= {
            "lost": audited["lost"] + TRIALS - audited["trials"],
            "doubled": audited["doubled"],
            "metric_mismatches": audited["metric_mismatches"],
            "certificates": len(wanted),
            "certificates_differing": differing + len(certificates.keys() - wanted.keys()),
        }
    return found


def summary(sweeps: list[dict[str, Any]]) -> str:
    """Return the figures of all sweeps as one table."""
    kills = sum((Counter(sweep["kills"]) for sweep in sweeps), Counter[str]())
    ended = [sweep for sweep in sweeps if sweep["error"] is None]
    rows = [
        *((f"kills of a {target}", kills[target]) for target in TARGETS),
        ("kills", kills.total()),
        ("sweeps", len(sweeps)),
        ("commands (begun or resumed)", sum(sweep["commands"] for sweep in sweeps)),
        ("sweeps that did not end well", len(sweeps) - len(ended)),
        ("trials", TRIALS * len(ended)),
        *(
            (name.replace("_", " "), sum(sweep[name] for sweep in ended))
            for name in (
                "lost",
                "doubled",
                "metric_mismatches",
                "certificates",
                "certificates_differing",
            )
        ),
    ]
    return "\n".join(["| | |", "| --- | ---: |", *(f"| {name} | {n} |" for name, n in rows)])


def main() -> None:
    """Do as many kills as are asked for, less those that the folder has already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/kills"))
    given = parser.parse_args()
    record = given.folder / f"seed-{given.seed}.json"
    sweeps: list[dict[str, Any]] = read_json(record) if record.exists() else []
    expected = undisturbed(given.folder / "undisturbed")
    while (left := given.kills - sum(sum(sweep["kills"].values()) for sweep in sweeps)) > 0:
        number = len(sweeps)
        print(f"sweep {number}, {left} kills left", flush=True)
        folder = given.folder / f"{given.seed}-{number}"
        found = one_sweep(folder, min(left, KILLS_A_SWEEP), f"{given.seed}/{number}", expected)
        sweeps.append(found)
        write_json(record, sweeps)
        print(f"  {found}", flush=True)
        if not wrong(found):
            shutil.rmtree(folder)
    print(summary(sweeps))
    sys.exit(any(map(wrong, sweeps)))


def wrong(sweep: dict[str, Any]) -> bool:
    """Tell whether a sweep did not end as if nothing had happened."""
    names = ("lost", "doubled", "metric_mismatches", "certificates_differing")
    return sweep["error"] is not None or any(sweep[name] for name in names)


if __name__ == "__main__":
    main()
