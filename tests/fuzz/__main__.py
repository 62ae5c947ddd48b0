"""Fuzz what strangers make: each is accepted or refused in one line, within a second and 1 GB.

Run by hand: `python -m tests.fuzz --count 1000 --seed 0`, or `--only "bundle:17"` for one case.
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.kinds import KINDS
from tests.fuzz.work import Outcome, outcomes


@dataclass
class Row:
    """The table's row of a kind."""

    mutations: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)


def main() -> int:
    """Fuzz all kinds and print the table; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="KIND, or KIND:NUMBER")
    arguments = parser.parse_args()
    rows: dict[str, Row] = {}
    only, _, number = (arguments.only or "").partition(":")
    for kind in [only] if only else KINDS:
        numbers = [int(number)] if number else list(range(arguments.count // len(KINDS)))
        rows[kind] = Row()
        for outcome in outcomes(kind, arguments.seed, numbers):
            rows[kind].outcomes.append(outcome)
            rows[kind].mutations.update(outcome.mutations)
            if outcome.failure or number:
                print(f"{kind}:{outcome.number} ({', '.join(outcome.mutations)}):")
                print(f"  {outcome.failure or outcome.refusal or 'accepted'}", flush=True)
    print(f"\n{_table(rows)}")
    return int(any(outcome.failure for row in rows.values() for outcome in row.outcomes))


def _table(rows: dict[str, Row]) -> str:
    lines = [
        "| Kind | Cases | Accepted | Refused in a line | Failures | Slowest (s) | Most memory (MB) "
        "| Mutations |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for kind, row in rows.items():
        found = row.outcomes
        failures = sum(outcome.failure is not None for outcome in found)
        refused = sum(o.failure is None and o.refusal is not None for o in found)
        named = ", ".join(f"{name} {count}" for name, count in row.mutations.most_common())
        lines.append(
            f"| {kind} | {len(found)} | {len(found) - failures - refused} | {refused} | {failures} "
            f"| {max(o.seconds for o in found):.2f} | {max(o.peak for o in found) // 10**6} "
            f"| {named} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
