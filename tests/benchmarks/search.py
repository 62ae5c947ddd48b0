"""How soon a search finds what is as good as the best, against random search without pruning.

    python -m tests.benchmarks.search
    python -m tests.benchmarks.search --json --only gp --sweeps 50

Sweeps run through their own searcher and scheduler (`tests.tune.simulation`); a trial's scores come
from a surrogate, a forest fitted to the table of `tests.benchmarks.search_table`. Two trials run at
a time, and each evaluation takes the same time up to a tenth, by chance.

A sweep's cost is what its trials have been trained for, in evaluations of which a whole trial has
three, until the complete trial with the best score so far is within 2 % of the best of 5,000 random
configurations; `--trials` at most, and as much where it never is. The mean over the sweeps is
divided by that of random search without pruning.

`budget_ratio`: of the search of large presets (Gaussian process, a third goes on from each rung).
`budget_ratio_learned`: of the same where it begins with another such sweep's 30 trials.
`methods`: of all, with the standard error of the ratio by the delta method.
`surrogate_r2`: share of the variance of final scores that the surrogate explains out of sample.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from tests.benchmarks.search_table import TABLE, TableRow, read_table, table_sweep
from tests.tune.simulation import simulate
from tune.domains import Domain, Space
from tune.finished_trials import FinishedTrial
from tune.study import propose
from tune.sweep_file import SweepConfig

AT_ONCE = 2
NEAR = 0.98
RANDOM_CONFIGURATIONS = 5_000
EARLIER_TRIALS = 30
# A proposal of a Gaussian process takes a second.
GP_SWEEPS = 20
BASELINE, AS_IT_IS, LEARNED = "random", "gp, 1 of 3", "gp, 1 of 3, learned"
_PRUNED: dict[str, Any] = {"enabled": True, "grace_evaluations": 1, "reduction_factor": 3}
_LATER: dict[str, Any] = {**_PRUNED, "grace_evaluations": 2}
_FREE: dict[str, Any] = {"enabled": False}


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        search: of the sweep.
        pruning: of the sweep.
        learns: whether it begins with an earlier sweep's trials.
    """

    search: str
    pruning: Mapping[str, Any]
    learns: bool = False


METHODS = {
    BASELINE: Method("random", _FREE),
    "random, 1 of 3": Method("random", _PRUNED),
    "tpe": Method("tpe", _FREE),
    "tpe, 1 of 2": Method("tpe", {**_PRUNED, "reduction_factor": 2}),
    "tpe, 1 of 3": Method("tpe", _PRUNED),
    "tpe, 1 of 4": Method("tpe", {**_PRUNED, "reduction_factor": 4}),
    "tpe, from 2, 1 of 2": Method("tpe", {**_LATER, "reduction_factor": 2}),
    "tpe, from 2, 1 of 3": Method("tpe", _LATER),
    "gp": Method("gp", _FREE),
    AS_IT_IS: Method("gp", _PRUNED),
    "tpe, learned": Method("tpe", _FREE, learns=True),
    "tpe, 1 of 3, learned": Method("tpe", _PRUNED, learns=True),
    LEARNED: Method("gp", _PRUNED, learns=True),
}


def encode(space: Space, parameters: Mapping[str, Any]) -> list[float]:
    """Return a configuration as numbers: those of domains in [0,1], choices one by one.

    What does not exist for it is -1.
    """
    encoded: list[float] = []
    for path, domain in space.items():
        encoded += _encode_one(domain, parameters.get(path), path in parameters)
    return encoded


def _encode_one(domain: Domain, value: Any, present: bool) -> list[float]:
    if domain.choice is not None:
        return [float(present and value == other) if present else -1.0 for other in domain.choice]
    if not present:
        return [-1.0]
    low, high = domain.uniform or domain.loguniform or domain.int or (0, 1)
    if domain.loguniform is not None:
        low, high, value = np.log([low, high, value])
    return [(float(value) - low) / (high - low)]


class Surrogate:
    """Scores of a trial at all its evaluations, from its configuration.

    Attributes:
        r2: share of the variance of final scores explained on rows that a tree has not seen.
    """

    def __init__(self, space: Space, rows: Sequence[TableRow]) -> None:
        self._space = space
        inputs = np.array([encode(space, row.parameters) for row in rows])
        scores = np.array([row.average_certified_radius for row in rows])
        self._forest = ExtraTreesRegressor(
            100, min_samples_leaf=3, bootstrap=True, oob_score=True, random_state=0
        ).fit(inputs, scores)
        unexplained = scores - self._forest.oob_prediction_
        self.r2 = float(1 - unexplained[:, -1].var() / scores[:, -1].var())
        self._known: dict[tuple[float, ...], tuple[float, ...]] = {}

    def scores(self, parameters: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the scores of one configuration."""
        key = tuple(encode(self._space, parameters))
        if key not in self._known:
            # Tree by tree, for the forest's own way takes a hundred times as long for one row.
            row = np.array([key], dtype=np.float32)
            trees = [tree.tree_.predict(row)[0, :, 0] for tree in self._forest.estimators_]
            self._known[key] = tuple(map(float, np.mean(trees, axis=0)))
        return self._known[key]

    def final_scores(self, configurations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Return the last scores of many configurations."""
        encoded = [encode(self._space, parameters) for parameters in configurations]
        found: NDArray[np.float64] = self._forest.predict(encoded)[:, -1]
        return found


def cost_of(
    sweep: SweepConfig, surrogate: Surrogate, target: float, learnt: Sequence[FinishedTrial]
) -> tuple[int, list[FinishedTrial]]:
    """Run one sweep until a trial is good enough; return its cost and the trials that ended."""
    generator = np.random.default_rng(sweep.search_seed)
    best, cost = -np.inf, 0
    scores: dict[int, dict[int, float]] = {}
    ended: list[FinishedTrial] = []
    for event in simulate(
        sweep,
        lambda _, parameters: surrogate.scores(parameters),
        lambda *_: 1 + 0.1 * float(generator.random()),
        at_once=AT_ONCE,
        learnt=learnt,
    ):
        cost = event.cost
        scores.setdefault(event.number, {})[event.evaluation] = event.score
        if event.state == "complete":
            best = max(best, event.score)
        if event.state in ("complete", "pruned"):
            ended.append(
                FinishedTrial(
                    event.number,
                    event.parameters,
                    "complete" if event.state == "complete" else "pruned",
                    event.score,
                    scores[event.number],
                )
            )
        if best >= target:
            break
    return cost, ended


def sweep_by(method: Method, base: SweepConfig, seed: int, trials: int) -> SweepConfig:
    """Return the sweep of a method."""
    document = base.model_dump(mode="json")
    changes = {"search": method.search, "pruning": method.pruning, "search_seed": seed}
    resources = {**document["resources"], "max_concurrent": AT_ONCE}
    return SweepConfig.model_validate(
        {**document, **changes, "resources": resources, "trials": trials}
    )


def costs(
    method: Method,
    base: SweepConfig,
    surrogate: Surrogate,
    target: float,
    *,
    sweeps: int,
    trials: int,
) -> NDArray[np.float64]:
    """Return the costs of as many sweeps of a method."""
    found = []
    for seed in range(sweeps):
        learnt: list[FinishedTrial] = []
        if method.learns:
            earlier = sweep_by(method, base, seed + 1_000_000, EARLIER_TRIALS)
            _, ended = cost_of(earlier, surrogate, np.inf, [])
            learnt = [
                FinishedTrial(-1 - n, t.parameters, t.state, t.value, t.intermediate)
                for n, t in enumerate(ended)
            ]
        cost, _ = cost_of(sweep_by(method, base, seed, trials), surrogate, target, learnt)
        found.append(float(cost))
    return np.array(found)


def ratio(costs: NDArray[np.float64], baseline: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ratio of two means and its standard error."""
    value = float(costs.mean() / baseline.mean())
    relative = [c.std(ddof=1) / np.sqrt(len(c)) / c.mean() for c in (costs, baseline)]
    return value, value * float(np.hypot(*relative))


def main(
    sweeps: Annotated[int, typer.Option(min=2, help="Simulated sweeps of each method.")] = 200,
    trials: Annotated[int, typer.Option(min=10, help="Trials of a sweep at most.")] = 150,
    only: Annotated[str | None, typer.Option(help="Methods whose names contain this.")] = None,
    table: Annotated[Path, typer.Option(help="Of `tests.benchmarks.search_table`.")] = TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Simulate and print."""
    base = table_sweep(trials)
    rows = read_table(table)
    surrogate = Surrogate(base.space, rows)
    configurations = [propose(base, n, [], {}) for n in range(1, RANDOM_CONFIGURATIONS)]
    target = NEAR * float(surrogate.final_scores(configurations).max())
    methods: dict[str, dict[str, float]] = {}
    baseline = np.array([])
    for name, method in METHODS.items():
        if name == BASELINE or only is None or only in name:
            several = min(sweeps, GP_SWEEPS) if method.search == "gp" else sweeps
            found = costs(method, base, surrogate, target, sweeps=several, trials=trials)
            baseline = found if name == BASELINE else baseline
            value, error = ratio(found, baseline)
            methods[name] = {"mean_cost": float(found.mean()), "ratio": value, "error": error}
            if not as_json:
                print(f"{name:<24}{found.mean():8.1f} evaluations {value:6.2f} ± {error:.2f}")
    document = {
        "rows": len(rows),
        "surrogate_r2": surrogate.r2,
        "sweeps": sweeps,
        "methods": methods,
        "budget_ratio": methods.get(AS_IT_IS, {}).get("ratio"),
        "budget_ratio_learned": methods.get(LEARNED, {}).get("ratio"),
    }
    print(json.dumps(document) if as_json else json.dumps(document, indent=2))


if __name__ == "__main__":
    typer.run(main)
