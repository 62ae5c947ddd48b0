"""Errors that name a mistake a user can correct."""

from collections.abc import Sequence

# Longer messages lose their middle: the end says what to do.
_LONGEST = 1_000
_CUT = " […] "


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return a text as one printable line of bounded length, whatever a stranger put into it."""
    if len(text) > longest:
        half = (longest - len(_CUT)) // 2
        text = text[:half] + _CUT + text[-half:]
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return a text with escapes, as Python writes them, for what does not show or is no UTF-8."""
    return "".join(s if s.isprintable() or s == "\n" else ascii(s)[1:-1] for s in text)


class _OneLineError(Exception):
    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


class InputError(_OneLineError, ValueError):
    """A value from outside that cannot be used; the message is one line and says what to do.

    Whatever takes settings, files, data or networks of a user raises it. Functions list it only
    where a caller acts on it, or where it is not their arguments that are wrong.

    Attributes:
        mistakes: one line each, all of which are to be mended; the message alone if there is one.
    """

    def __init__(self, message: object, mistakes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(map(one_line, mistakes)) or (str(self),)


def together(errors: Sequence[InputError]) -> InputError:
    """Return one error of all mistakes, with the message of the first."""
    return InputError(errors[0], [line for error in errors for line in error.mistakes])


class RunError(_OneLineError, RuntimeError):
    """A computation that started cannot be finished; the message says why."""
