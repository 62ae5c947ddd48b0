"""Counts and lists, as people write them."""

from collections.abc import Sequence


def counted(count: float, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun: 1 trial, 1,200 images, 0.5 CPUs; the plural ends in s."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun if count == 1 else plural or f'{noun}s'}"


def times(count: int) -> str:
    """Write how often: once, or 3 times."""
    return "once" if count == 1 else f"{count:,} times"


def joined(parts: Sequence[str]) -> str:
    """Write a list: a, b and c."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
