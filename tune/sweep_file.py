"""Sweep files: what a sweep fixes, what it varies, how it searches, and on what it runs."""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from decrop.config import (
    Count,
    CountOrZero,
    FreeMapping,
    NonNegative,
    Positive,
    Seed,
    Settings,
    Text,
    TrialConfig,
    Word,
)
from decrop.documents import (
    Document,
    blame,
    field_paths,
    load_document,
    load_trial_document,
    merge,
    parse_assignment,
    set_dotted,
    trial_config,
    unknown,
    validated,
)
from decrop.errors import InputError, together
from tune.domains import (
    MOST_POINTS,
    Domain,
    Space,
    check_points,
    check_rows,
    check_space,
    require_choices,
)
from tune.leakage import check_held_out
from tune.results.metric import AVERAGE_RADIUS, metric_named, metrics_named

_MOST_OBJECTIVES = 6
# Of machines in a cluster that grows, and how many of a kind.
_MOST_KINDS, _MOST_MACHINES = 100, 100_000


class PruningSettings(Settings):
    """Asynchronous successive halving (Li et al. 2020) on the held-out score while training."""

    enabled: bool = Field(
        default=True, description="Whether weak trials end before their last epoch."
    )
    grace_evaluations: Count = Field(
        default=1, description="Held-out scores before a trial may end."
    )
    reduction_factor: Count = Field(
        default=3, ge=2, description="One trial in so many goes on from each rung to the next."
    )


class Resources(Settings):
    """What one process claims of a machine."""

    cpu: Positive = Field(1.0, description="CPU cores.")
    gpu: NonNegative | None = Field(
        None,
        description="GPUs; a fraction shares one, 0 computes on CPUs. Without it, half a GPU for a "
        "trial and a quarter for a helper where the cluster has any, unless execution.device is "
        "cpu; a sweep that began with GPUs goes on with them alone.",
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpu is not None and self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"gpu ({self.gpu}) must be a whole number above 1")
        return self


PAPER = "paper"


class MachineSettings(Settings):
    """Machines that are alike."""

    cpu: NonNegative = Field(description="CPU cores of each.")
    gpu: NonNegative = Field(0.0, description="GPUs of each.")
    count: Count = Field(1, le=_MOST_MACHINES, description="How many there may be.")


class ResourceSettings(Settings):
    """What the sweep's processes claim, and how many there are."""

    trial: Resources = Field(default=Resources(), description="Of a trial.")
    helper: Resources = Field(
        default=Resources(),
        description="Of a helper, which takes over part of a trial's certification.",
    )
    max_helpers: CountOrZero = Field(
        default=4, description="Helpers that one trial may have at a time."
    )
    max_concurrent: Count | None = Field(
        default=None,
        description="Trials at once; as many as fit if not given. Where it is given, what the "
        "search proposes and prunes does not depend on timing (see SweepConfig.lag).",
    )
    autoscaling: tuple[MachineSettings, ...] = Field(
        default=(),
        max_length=_MOST_KINDS,
        description="All machines of a cluster that an autoscaler has let grow as far as it may, "
        "where Ray does not know them: what a process claims must fit one of these or those that "
        "are there, and so many trials are begun at once.",
    )


class LeaderboardSettings(Settings):
    """What is certified on the test split at the end."""

    top: Count = Field(
        default=3, description="Trials with the best held-out score, beside trial 0."
    )
    by: Word | None = Field(
        default=None,
        description="Held-out score that ranks trials, one of what objectives may be; the first "
        "objective if not given.",
    )


RowName = Annotated[str, Field(pattern=r"^[^\s|]([^|\n]*[^\s|])?$", max_length=80)]


class SweepConfig(Settings):
    """A sweep; `load_sweep` has merged `base` into `trial`, so it depends on no other file."""

    name: Word = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Part of the name of its folder."
    )
    description: Text = Field(default="", description="One sentence for readers of the results.")
    base: Text | None = Field(
        default=None, description="Trial preset or YAML file that `trial` overrides."
    )
    trial: FreeMapping = Field(
        default={}, description="Settings that all trials share (TrialConfig)."
    )
    space: dict[Text, Domain] = Field(
        default={}, max_length=1_000, description="Domains of the others, by dotted path."
    )
    rows: dict[RowName, FreeMapping] = Field(
        default={},
        max_length=MOST_POINTS,
        description="Rows of a table, for search rows: settings by dotted path, by the row's name.",
    )
    reference: Text | None = Field(
        default=None,
        description="What trial 0 is, with which the others are compared. For search rows: a row, "
        "the first if not given. Otherwise the settings of this file as written; or `paper`, with "
        "DE-CROP's own choices of losses, attack and interpolation, and no prior, in their place.",
    )
    seeds: Count = Field(
        default=1,
        le=MOST_POINTS,
        description="Trials of each row, with seeds 0, 1, … and the same limited data.",
    )
    search: Literal["tpe", "gp", "random", "grid", "rows"] = Field(
        default="tpe",
        description="How settings are chosen: tpe, Optuna's tree-structured Parzen estimator; gp, "
        "its Gaussian process; random; grid; rows runs and certifies each row and nothing else.",
    )
    search_seed: Seed = Field(default=0, description="Seed of the search.")
    trials: Count | None = Field(
        default=None,
        le=1_000_000,
        description="Trials in total with trial 0; not given for a grid, which has its own.",
    )
    points_to_evaluate: tuple[FreeMapping, ...] = Field(
        default=(),
        max_length=MOST_POINTS,
        description="Settings of space, by dotted path, that trials 1, 2, … begin the search with; "
        "it chooses what a point leaves out.",
    )
    objectives: tuple[Word, ...] = Field(
        default=(AVERAGE_RADIUS,),
        min_length=1,
        max_length=_MOST_OBJECTIVES,
        description="What is searched for on held-out images; trials are pruned by the first: "
        "average_certified_radius; certified_accuracy@RADIUS with one of certification.radii; "
        "certified_accuracy_area, its mean over these radii; clean_accuracy; and, the less the "
        "better and not first, latency (seconds of an image with noise) and parameters (weights of "
        "the denoiser).",
    )
    pruning: PruningSettings = PruningSettings()
    resources: ResourceSettings = ResourceSettings()
    leaderboard: LeaderboardSettings = LeaderboardSettings()

    @property
    def lag(self) -> int | None:
        """By how many trials a search lags behind, so that it does not depend on timing.

        What trial n tries, and whether it is pruned, rests on trials 0 to n - lag alone, which have
        ended when n begins. None where it rests on whatever has ended by then: where the number of
        trials at once is not fixed, or nothing is learnt from trials.

        Of c trials at once, c - 1 others run when one begins, so that it is at least c. With c, a
        slot idles whenever a trial ends before an earlier one: simulated with trials of which half
        are pruned, sweeps take 14 % longer with c = 2 and 46 % with c = 8. With 2c - 1 it is 2 %.
        """
        at_once = self.resources.max_concurrent
        learns = self.search in ("tpe", "gp") or self.pruning.enabled
        return 2 * at_once - 1 if at_once is not None and learns else None

    @model_validator(mode="after")
    def _count_fits_search(self) -> Self:
        if self.search == "rows":
            if self.trials is not None or self.space:
                raise ValueError("search rows runs its rows only: drop trials and space")
        elif self.search == "grid":
            if self.trials is not None:
                raise ValueError(
                    f"trials = {self.trials}: must not be given for a grid, which runs every "
                    "combination of its choices and trial 0"
                )
        elif self.trials is None:
            raise ValueError(
                f"trials is missing: give the number of trials of search {self.search}"
            )
        elif self.trials > 1 and not self.space:
            raise ValueError(f"trials = {self.trials}: must be 1, for space is empty")
        return self

    @model_validator(mode="after")
    def _points_fit_search(self) -> Self:
        if self.points_to_evaluate and self.search in ("grid", "rows"):
            raise ValueError(
                f"points_to_evaluate needs search tpe, gp or random, not {self.search}"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit_search(self) -> Self:
        if self.search != "rows":
            if self.reference not in (None, PAPER):
                raise ValueError(
                    f"reference = {self.reference!r}: must be {PAPER}, or not given for trial 0 to "
                    f"have the settings of the file; rows need search rows, not {self.search}"
                )
            if self.rows or self.seeds != 1:
                raise ValueError(f"rows and seeds need search rows, not search {self.search}")
        elif not self.rows:
            raise ValueError("rows is missing: give {NAME: {PATH: VALUE, …}, …}")
        elif self.reference is not None and self.reference not in self.rows:
            raise ValueError(
                f"reference = {self.reference!r}: must be one of the rows {', '.join(self.rows)}"
            )
        return self


# How a sweep file of Weights & Biases is written here.
_AS_HERE = (
    "write its `parameters` by their dotted paths (`decrop settings`) under `space:`, as in "
    "training.learning_rate: {loguniform: [0.0001, 0.1]} for min and max (or uniform, or int) and "
    "training.batch_size: {choice: [32, 64]} for values, and a `value` under `trial:`; `method` as "
    "search: tpe, random or grid; `metric` as objectives: [average_certified_radius]; `run_cap` as "
    "trials; `early_terminate` as pruning: {enabled: true}; and drop all else."
)


def load_sweep(name_or_path: str, assignments: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep preset by name or a sweep file by path, and check all of it.

    Args:
        name_or_path: For example `quickstart` or `./mine.yaml`. A relative `base` of a file starts
            at the file's folder.
        assignments: `KEY=VALUE`, laid over the file in order. KEY is a dotted path of a sweep's
            setting (`trials`, `pruning.enabled`), of a trial's (`training.epochs`), or `space.`
            and a trial's, whose VALUE is a domain, or null to vary it no longer.
    """
    document = load_document(name_or_path, files("tune") / "presets", kind="sweep preset")
    if "parameters" in document and "space" not in document:
        raise InputError(f"{name_or_path} is a sweep file of Weights & Biases; {_AS_HERE}")
    assigned: list[str] = []
    for text in assignments:
        path, value = parse_assignment(text)
        document = _assign(document, path, value)
        assigned.append(path.removeprefix("trial."))
    try:
        sweep = validated(SweepConfig, document, source=name_or_path, assigned=assigned)
    except InputError as error:
        raise together([error, *_other_mistakes(document, name_or_path, assigned)]) from None
    for path in sweep.space:
        if path in assigned:
            raise InputError(
                f"--set {path}: the sweep varies it, so that a fixed value has no effect; add "
                f"--set space.{path}=null to vary it no longer."
            )
    trial = _trial_document(sweep.base, sweep.trial, name_or_path, assigned)
    if mistakes := _mistakes(trial, sweep.space, name_or_path, assigned):
        raise together(mistakes)
    blamed = blame("points_to_evaluate", name_or_path, assigned)
    check_points(sweep.points_to_evaluate, sweep.space, source=blamed)
    config = TrialConfig.model_validate(trial)
    radii = config.certification.radii
    metrics_named(sweep.objectives, radii, source=f"{name_or_path}: objectives")
    if sweep.leaderboard.by is not None:
        metric_named(sweep.leaderboard.by, radii, source=f"{name_or_path}: leaderboard.by")
    changes: Document = {"base": None, "trial": trial}
    if sweep.search == "rows":
        _refuse_rows_settings(document, source=name_or_path)
        check_rows(sweep.rows, trial, seeds=sweep.seeds, source=name_or_path, assigned=assigned)
        changes["pruning"] = PruningSettings(enabled=False)
        changes["leaderboard"] = LeaderboardSettings(top=len(sweep.rows) * sweep.seeds)
    check_held_out(trial, sweep.space, sweep.rows, source=name_or_path)
    if sweep.search == "grid":
        try:
            require_choices(sweep.space)
        except InputError as error:
            raise InputError(f"{name_or_path}: {error}") from None
    return sweep.model_copy(update=changes)


def _trial_document(
    base: str | None, trial: Document, name_or_path: str, assigned: Sequence[str]
) -> Document:
    """Return the settings that all trials share, laid over those of the base."""
    if base is None:
        return trial
    folder = None if "base" in assigned else Path(name_or_path).parent
    document = load_trial_document(base, folder=folder)
    trial_config(document, source=base)
    return merge(document, trial)


def _mistakes(
    trial: Document, space: Space, name_or_path: str, assigned: Sequence[str]
) -> list[InputError]:
    """Return what is wrong with the settings that trials share, and with those that are varied."""
    checks = (
        partial(trial_config, trial, source=f"{name_or_path}, trial", assigned=assigned),
        partial(check_space, space, trial, source=name_or_path, assigned=assigned),
    )
    mistakes = []
    for check in checks:
        try:
            check()
        except InputError as error:
            mistakes.append(error)
    return mistakes


def _other_mistakes(
    document: Document, name_or_path: str, assigned: Sequence[str]
) -> list[InputError]:
    """Return the mistakes in trial and space of a file that has others, as far as they are read."""
    base, trial = document.get("base"), document.get("trial", {})
    if not isinstance(base, str | None) or not isinstance(trial, dict):
        return []
    try:
        laid = _trial_document(base, trial, name_or_path, assigned)
    except InputError as error:
        return [error]
    return _mistakes(laid, _read_domains(document.get("space")), name_or_path, assigned)


def _read_domains(space: Any) -> dict[str, Domain]:
    """Return the domains that can be read, and whose `when` asks for none of the others."""
    domains, unread = {}, False
    for path, domain in space.items() if isinstance(space, dict) else ():
        try:
            domains[path] = Domain.model_validate(domain)
        except ValidationError:
            unread = True
    return {path: domain for path, domain in domains.items() if not (unread and domain.when)}


def _refuse_rows_settings(document: Document, *, source: str) -> None:
    for name in ("pruning", "leaderboard"):
        if name in document:
            raise InputError(
                f"{source}: {name} has no effect with search rows, which completes and certifies "
                "every row; drop it."
            )


def _assign(document: Document, path: str, value: Any) -> Document:
    """Lay one assignment over a sweep document (see `load_sweep`)."""
    first, _, rest = path.partition(".")
    if first == "space" and rest:
        # The keys of a space are dotted paths themselves.
        space = document.get("space") or {}
        if value is not None:
            return {**document, "space": {**space, rest: value}}
        if rest not in space:
            names = ", ".join(space) or "nothing"
            raise InputError(f"--set {path}: the sweep does not vary {rest}; it varies {names}.")
        return {**document, "space": {name: space[name] for name in space if name != rest}}
    if first == "rows" and rest:
        raise InputError(
            f"--set {path}: give all rows at once, --set 'rows={{NAME: {{PATH: VALUE}}}}', or "
            "change the sweep file."
        )
    if first in SweepConfig.model_fields:
        return set_dotted(document, path, value)
    if first in TrialConfig.model_fields:
        return set_dotted(document, f"trial.{path}", value)
    known = [*SweepConfig.model_fields, *TrialConfig.model_fields]
    raise InputError(f"--set: {unknown(first, known, field_paths())}.")
