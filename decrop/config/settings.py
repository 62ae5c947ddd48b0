"""Base of all groups of settings: numbers, texts and collections with their bounds.

Every field is bounded from above, far beyond what makes sense, so that a stranger's settings can
neither overflow a number nor exhaust memory before they are refused.
"""

from collections import Counter
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

_LARGEST = 1e9
_LONGEST_TEXT = 4096
_LONGEST_WORD = 200
# Of one free value, such as a function's arguments: numbers, texts, lists and mappings in it.
_MOST_VALUES = 100_000
_DEEPEST = 32
MOST_CLASSES = 100_000

Probability = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=_LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=_LARGEST)]
# A thousand years.
Seconds = Annotated[float, Field(ge=0, le=3.2e10)]
Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
MOST_CHANNELS = 16
MOST_RADII = 1_000
# Of the noise, that one network is certified at.
MOST_SIGMAS = 16
# Of an image, in pixels.
Side = Annotated[int, Field(ge=1, le=10_000)]
# Pixels around an image.
Padding = Annotated[int, Field(ge=0, le=256)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Of the noise, in [0,1] pixels, of which ten standard deviations leave nothing to see.
Sigma = Annotated[float, Field(gt=0, le=10)]


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of a range if the first is below the second."""
    low, high = ends
    if low >= high:
        raise ValueError(f"must be [lowest, highest], but {low:g} is not below {high:g}")
    return ends


SigmaRange = Annotated[tuple[Sigma, Sigma], AfterValidator(_ascending)]
# Beyond one half a certificate may be wrong more often than not; below, sums in float64 are too
# coarse.
FailureProbability = Annotated[float, Field(ge=1e-12, le=0.5)]
Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]
# Tracebacks.
LongText = Annotated[str, Field(max_length=1_000_000)]
# Hexadecimal digits, and short names.
Word = Annotated[str, Field(max_length=_LONGEST_WORD)]
# Content hashes, by what they are of.
Hashes = Annotated[dict[Word, Word], Field(max_length=100)]


def bounded(value: Any) -> Any:
    """Return a value made of mappings, lists, texts and numbers, if its size is within bounds."""
    count, level = 0, [value]
    for depth in range(_DEEPEST + 2):
        if not level:
            return value
        count += len(level)
        if count > _MOST_VALUES or depth > _DEEPEST:
            break
        below: list[Any] = []
        for found in level:
            if isinstance(found, dict):
                below += [*found, *found.values()]
            elif isinstance(found, list | tuple):
                below += found
            elif isinstance(found, str) and len(found) > _LONGEST_TEXT:
                raise ValueError(f"texts must have at most {_LONGEST_TEXT:,} characters")
            elif isinstance(found, int) and not -(2**63) <= found < 2**63:
                raise ValueError("whole numbers must fit into 64 bits")
        level = below
    raise ValueError(f"must hold at most {_MOST_VALUES:,} values, nested at most {_DEEPEST} deep")


def different_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of at least two classes if each is a printable line and they differ."""
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"there must be from 2 to {MOST_CLASSES:,} classes, but there are {len(names):,}"
        )
    for name in names:
        if not 0 < len(name) <= _LONGEST_WORD or not name.isprintable() or name != name.strip():
            raise ValueError(
                f"names of classes must be printable and have 1 to {_LONGEST_WORD} characters, "
                f"without blanks around them, but one is {name[:_LONGEST_WORD]!r}"
            )
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"names of classes must differ, but two are {twice!r}")
    return names


# What no schema describes says there that it is bounded.
_FREE = (BeforeValidator(bounded), WithJsonSchema({"bounded": True}))
FreeMapping = Annotated[dict[str, JsonValue], *_FREE]
ClassNames = Annotated[
    tuple[Word, ...],
    Field(min_length=2, max_length=MOST_CLASSES),
    AfterValidator(different_names),
]


def _narrowest(metadata: list[Any]) -> list[Any]:
    """Drop every bound beside which there is a narrower one."""
    lows: list[Any] = [bound.ge for bound in metadata if isinstance(bound, Ge)]
    highs: list[Any] = [bound.le for bound in metadata if isinstance(bound, Le)]
    return [
        bound
        for bound in metadata
        if not (isinstance(bound, Ge) and bound.ge != max(lows))
        and not (isinstance(bound, Le) and bound.le != min(highs))
    ]


class Settings(BaseModel):
    """A frozen group of fields that refuses unknown names, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        # Of two bounds, a field's and its type's, pydantic takes the last, which may be wider.
        for field in cls.model_fields.values():
            field.metadata = _narrowest(field.metadata)
        return handler(source)

    def __hash__(self) -> int:
        # A mapping in them has no hash of its own.
        return hash(self.model_dump_json())
