"""How many images a certification may ask an endpoint for, before it starts."""

from dataclasses import dataclass

from decrop.errors import InputError


@dataclass(frozen=True)
class QueryPlan:
    """What is about to be asked.

    Attributes:
        url: of the endpoint.
        most: images that may still be asked, repetitions of failed requests aside.
        kept: answers that are there already, and are not asked for again.
        left: of the budget; None without one.
        exact: whether `most` is asked in any case.
    """

    url: str
    most: int
    kept: int
    left: int | None
    exact: bool

    @property
    def within_budget(self) -> bool:
        """Whether the budget suffices for the most."""
        return self.left is None or self.most <= self.left

    def check(self) -> None:
        """Raise InputError if the budget cannot suffice."""
        if self.exact and not self.within_budget:
            raise InputError(
                f"classifier.endpoint.query_budget: {self.most:,} images are to be asked of "
                f"{self.url}, but {self.left:,} are left of the budget; raise it, or lower the "
                "samples or images."
            )

    def __str__(self) -> str:
        """Say it in a sentence."""
        asked = f"asks {self.url} for {'' if self.exact else 'at most '}{self.most:,} images"
        kept = f" ({self.kept:,} are answered already)" if self.kept else ""
        if self.left is None:
            return f"{asked}{kept}; there is no classifier.endpoint.query_budget"
        said = f"{asked}{kept}; {self.left:,} are left of the budget"
        if self.exact or self.within_budget:
            return said
        return f"{said}, so it may stop before its end, and go on from there with a larger one"
