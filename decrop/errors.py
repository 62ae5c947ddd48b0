"""Errors that name a mistake a user can correct."""


class InputError(ValueError):
    """A value from outside that cannot be used; the message is one line and says what to do."""


class RunError(RuntimeError):
    """A computation that started cannot be finished; the message says why."""
