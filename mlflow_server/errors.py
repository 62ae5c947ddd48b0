"""Errors around the tracking server, of which the command makes one line and an exit code."""


class ServerError(Exception):
    """The server did not start, or ended by itself."""


class InputError(ServerError):
    """What the user asked for cannot work: a bad URI, an unknown host, an occupied port."""
