"""Domains of the settings that a sweep varies, and rows of a table, checked before it starts."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from decrop.config import Count, Number, Settings, Text, TrialConfig
from decrop.config.settings import bounded
from decrop.config.trial import VARIED_BY_TABLES, measures
from decrop.documents import Document, blame, mistakes_beside, set_dotted, show, trial_config
from decrop.errors import InputError, together

Rows = Mapping[str, Mapping[str, Any]]


def row_document(document: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's settings with those of a row, by dotted path, laid over them."""
    laid = dict(document)
    for path, value in row.items():
        laid = set_dotted(laid, path, value)
    return laid


def check_rows(
    rows: Rows,
    document: Mapping[str, Any],
    *,
    seeds: int,
    source: str,
    assigned: Collection[str] = (),
) -> None:
    """Check that every row is a trial, that no two are the same, and that all can be compared.

    Args:
        rows: settings by dotted path, by the name of the row.
        document: the settings that all rows share.
        seeds: how often each row is repeated, with seeds 0, 1, …
        assigned: dotted paths given by `--set`.
    """
    seen: list[tuple[str, TrialConfig]] = []
    for name, row in rows.items():
        here = f"{source}, row {name}"
        for path, value in row.items():
            _check_path(path, value, here)
        try:
            laid = row_document(document, row)
        except InputError as error:
            raise InputError(f"{here}: {error}") from None
        config = trial_config(laid, source=here)
        for other, earlier in seen:
            if earlier == config:
                raise InputError(f"{here}: has the same settings as row {other}; drop one of them.")
        seen.append((name, config))
    for path in assigned:
        if all(path in row for row in rows.values()):
            raise InputError(f"--set {path}: every row sets it, so that it has no effect.")
    if seeds > 1 and ("seed" in document or any("seed" in row for row in rows.values())):
        raise InputError(
            f"{source}: seeds = {seeds} gives each row the seeds 0 to {seeds - 1}; drop `seed`."
        )


def _check_path(path: str, value: Any, here: str) -> None:
    if isinstance(value, Mapping):
        example = next(iter(value), "name")
        raise InputError(
            f"{here}: {path} = {show(dict(value))}: must be one setting; write each by its whole "
            f"path, as in {path}.{example}."
        )
    if measures(path) and not measures(path, VARIED_BY_TABLES):
        raise InputError(
            f"{here}: {path}: must be the same in all rows, for it decides how they are measured, "
            "and they are compared image by image; set it under trial."
        )


# A field of a domain is called `int`, as it is in a sweep file.
Integer = int
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]

# Of a choice, of a grid, and of a table's rows.
MOST_POINTS = 10_000
_GOLDEN_SECTION = 0.6180339887498949


def _scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("must be a string, a number, true, false or null")
    return bounded(value)


def _condition(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _scalar(value)
    if not 0 < len(value) <= MOST_POINTS:
        raise ValueError(f"must be a value, or a list of 1 to {MOST_POINTS:,} of them")
    return tuple(map(_scalar, value))


Scalar = Annotated[Any, AfterValidator(_scalar), WithJsonSchema({"bounded": True})]
Condition = Annotated[Any, AfterValidator(_condition), WithJsonSchema({"bounded": True})]


class Domain(Settings):
    """The values one setting may take; exactly one of the four kinds is given."""

    uniform: tuple[Number, Number] | None = Field(
        default=None, description="[low, high], both included."
    )
    loguniform: tuple[Number, Number] | None = Field(
        default=None, description="[low, high], both included, uniform in the logarithm."
    )
    int: tuple[Whole, Whole] | None = Field(
        default=None, description="[low, high], both included, whole numbers."
    )
    step: Count = Field(default=1, description="Distance of the whole numbers of `int`.")
    choice: tuple[Scalar, ...] | None = Field(
        default=None, min_length=1, max_length=MOST_POINTS, description="The values."
    )
    when: dict[Text, Condition] = Field(
        default={},
        max_length=MOST_POINTS,
        description="Other choices' paths and the value, or the list of values, for which this "
        "setting is varied.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = [b for b in (self.uniform, self.loguniform, self.int) if b is not None]
        if len(bounds) + (self.choice is not None) != 1:
            raise ValueError(
                "must be one of {uniform: [low, high]}, {loguniform: [low, high]}, "
                "{int: [low, high]} and {choice: [...]}"
            )
        for low, high in bounds:
            if low > high:
                raise ValueError(f"low ({low}) must not exceed high ({high})")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError("low must be greater than 0, for its logarithm is taken")
        if self.int is None and self.step != 1:
            raise ValueError("step belongs to int")
        if self.int is not None and (self.int[1] - self.int[0]) % self.step:
            raise ValueError("high must be low plus a multiple of step")
        if self.choice is not None and len(set(self.choice)) < len(self.choice):
            raise ValueError("the choices must differ")
        return self

    def contains(self, value: Any) -> bool:
        """Return whether the domain has a value."""
        if self.choice is not None:
            return value in self.choice
        if isinstance(value, bool) or not isinstance(value, float | Integer):
            return False
        if self.int is not None:
            return self.int[0] <= value <= self.int[1] and (value - self.int[0]) % self.step == 0
        bounds = self.uniform or self.loguniform
        assert bounds is not None
        return bounds[0] <= value <= bounds[1]

    def values_to_check(self) -> tuple[Any, ...]:
        """Return values of which all are allowed only if the whole domain is.

        A setting's limits are intervals, so that both ends stand for what is between; one value
        between the ends of a continuous domain tells whether the setting takes fractions.
        """
        if self.choice is not None:
            return self.choice
        if self.int is not None:
            return self.int
        bounds = self.uniform or self.loguniform
        assert bounds is not None
        low, high = bounds
        return (low, high, low + _GOLDEN_SECTION * (high - low))

    @property
    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """The values that `when` allows of each other choice."""
        return {
            path: values if isinstance(values, tuple) else (values,)
            for path, values in self.when.items()
        }


Space = Mapping[str, Domain]


def ordered(space: Space) -> list[str]:
    """Return the paths of a space, each after those that its `when` names."""
    graph = {path: tuple(domain.when) for path, domain in space.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise InputError(f"space: `when` goes in a circle: {circle}.") from None


def exists(domain: Domain, parameters: Mapping[str, Any]) -> bool:
    """Return whether a domain exists beside the values sampled so far (see `ordered`)."""
    return all(
        path in parameters and parameters[path] in values
        for path, values in domain.conditions.items()
    )


def contains(space: Space, parameters: Mapping[str, Any]) -> bool:
    """Return whether parameters are what a search of the space could have sampled."""
    existing = [path for path in space if exists(space[path], parameters)]
    return set(existing) == set(parameters) and all(
        space[path].contains(parameters[path]) for path in existing
    )


def require_choices(space: Space) -> None:
    """Refuse what a grid cannot enumerate."""
    for path, domain in space.items():
        if domain.choice is None:
            raise InputError(
                f"space.{path}: a grid takes choice domains only; write its values as "
                "{choice: [...]}, or use search tpe or random."
            )
    points = math.prod(len(domain.choice or ()) for domain in space.values())
    if points > MOST_POINTS:
        raise InputError(
            f"space: a grid of {points:.3g} points; {MOST_POINTS:,} is the most: give fewer "
            "choices, or use search tpe or random."
        )


def check_space(
    space: Space, document: Mapping[str, Any], *, source: str, assigned: Collection[str] = ()
) -> None:
    """Check that every domain is a setting's, exists for some trial, and holds allowed values only.

    Args:
        document: The settings of a trial that the space does not vary.
        assigned: Dotted paths given by `--set`, those of domains starting with `space.`.
    """

    found: dict[str, InputError] = {}

    def check_each(check: Callable[[str], None]) -> None:
        for path in space.keys() - found.keys():
            try:
                check(path)
            except InputError as error:
                blamed = blame(f"space.{path}", source, assigned)
                found[path] = InputError(f"{blamed}: space.{path}: {error}")

    def raise_found() -> None:
        if found:
            raise together([found[path] for path in space if path in found])

    check_each(lambda path: _check_when(space[path], space))
    raise_found()
    try:
        ordered(space)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    check_each(_check_searched)
    check_each(lambda path: _check_values(path, space, document))
    raise_found()


def check_points(points: Sequence[Mapping[str, Any]], space: Space, *, source: str) -> None:
    """Check that a search of the space can begin with points, which give some of its settings."""
    for number, point in enumerate(points, 1):
        for path, value in point.items():
            if mistake := _mistake_in_point(path, value, point, space):
                raise InputError(
                    f"{source}: points_to_evaluate, point {number}: {mistake}; change the point, "
                    "or --set points_to_evaluate=[]."
                )


def _mistake_in_point(path: str, value: Any, point: Mapping[str, Any], space: Space) -> str | None:
    if path not in space:
        return f"the sweep does not vary {path}, but {', '.join(space) or 'nothing'}"
    domain = space[path]
    if not domain.contains(value):
        shown = show(domain.model_dump(mode="json", exclude_defaults=True, exclude={"when"}))
        return f"{path} = {show(value)}: must be in its domain {shown}"
    if not exists(domain, point):
        asked = " and ".join(
            f"{other} = {' or '.join(map(show, values))}"
            for other, values in domain.conditions.items()
        )
        return f"{path} exists for {asked} alone, which the point must give too"
    return None


def _check_searched(path: str) -> None:
    if measures(path):
        raise InputError(
            "must be the same in all trials, for it decides how they are measured, and a search "
            "would choose what measures kindly, not what is robust; set it under trial."
        )


def _check_when(domain: Domain, space: Space) -> None:
    for other, values in domain.conditions.items():
        choices = space[other].choice if other in space else None
        if choices is None:
            names = [name for name in space if space[name].choice is not None]
            raise InputError(
                f"when names {other}, which is no choice of this space "
                f"(choices: {', '.join(names) or 'none'})."
            )
        for value in values:
            if value not in choices:
                allowed = ", ".join(map(show, choices))
                raise InputError(f"when {other} = {show(value)}: must be one of {allowed}.")


def _check_values(path: str, space: Space, document: Mapping[str, Any]) -> None:
    conditions = _conditions(space[path], space)
    first = {other: values[0] for other, values in conditions.items()}
    # Each value of a condition once, the others at their first: what settings refuse, they refuse
    # of a value beside one other.
    places = [first]
    for other, values in conditions.items():
        places += [{**first, other: value} for value in values[1:]]
    values_to_check = space[path].values_to_check()
    if len(places) * len(values_to_check) > MOST_POINTS:
        raise InputError(
            f"{len(values_to_check):,} values under {len(places):,} conditions; "
            f"{MOST_POINTS:,} is the most: give fewer."
        )
    for place in places:
        in_place: Document = dict(document)
        for other, value in place.items():
            in_place = set_dotted(in_place, other, value)
        for value in values_to_check:
            if mistakes := mistakes_beside(in_place, path, value):
                raise InputError(mistakes)


def _conditions(domain: Domain, space: Space) -> dict[str, tuple[Any, ...]]:
    """Return the values for which a domain exists, through the whole chain of `when`."""
    found: dict[str, tuple[Any, ...]] = {}
    waiting = list(domain.conditions.items())
    while waiting:
        other, values = waiting.pop()
        both = tuple(value for value in found.get(other, values) if value in values)
        if not both:
            raise InputError(
                f"no trial has it: its conditions ask {other} to be both "
                f"{' or '.join(map(show, values))} and {' or '.join(map(show, found[other]))}."
            )
        found[other] = both
        waiting.extend(space[other].conditions.items())
    return found
