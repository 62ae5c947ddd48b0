"""What refuses bad input, in one line."""

from collections.abc import Callable

import pytest

from decrop.errors import InputError


def one_line(function: Callable[..., object], *arguments: object, **named: object) -> str:
    """Call what must refuse its arguments, and return the one line that it says."""
    with pytest.raises(InputError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)
