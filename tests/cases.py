"""Cases of a test: as one test where they differ in data alone, and which of them are slow."""

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from typing import Any

import pytest


def cases(names: str | Sequence[str], values: Collection[Any]) -> Callable[..., Any]:
    """Call a test with each of some values, as `parametrize` would, within one test.

    Fixtures are shared by all cases, so a test that changes one is none for this.
    """
    arguments = [names] if isinstance(names, str) else list(names)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(test).parameters

        @wraps(test)
        def every_case(subtests: pytest.Subtests, **fixtures: Any) -> None:
            assert values
            for value in values:
                given = dict(
                    zip(arguments, [value] if isinstance(names, str) else value, strict=True)
                )
                with subtests.test(**given):
                    test(**given, **fixtures)

        kept = [parameter for name, parameter in parameters.items() if name not in arguments]
        shared = inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY)
        every_case.__signature__ = inspect.Signature([*kept, shared])  # type: ignore[attr-defined]
        return every_case

    return decorate


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the values as parameters of a test, slow but for the quick ones."""
    return [
        value
        if value in quick
        else pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow)
        for value in values
    ]
