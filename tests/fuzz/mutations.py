"""Mutations of values, texts and bytes, which leave most of their structure as it was."""

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any


def deep(depth: int, value: Any = 0) -> Any:
    """Return lists inside each other."""
    for _ in range(depth):
        value = [value]
    return value


STRINGS = (
    "",
    "0",
    "nan",
    "a\nb\x1b[31m\x00",
    "\ud800",
    "é" * 3 + "\u202e\U0001f991",
    "x" * 300,
    "x" * 100_000,
    "../../../etc/passwd",
    "/dev/zero",
    "os:system",
    "https://me:secret@host/x",
)
NUMBERS = (
    *(0, -1, 1, 2, 255, -0.0, 0.5, 1e308, -1e308, 1e-308, 5e-324, 1e18),
    *(math.nan, math.inf, -math.inf, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**12, 10**18, 10**400),
)


def _extreme(rng: Random, value: Any) -> Any:
    return rng.choice(STRINGS if isinstance(value, str) and rng.random() < 0.7 else NUMBERS)


def _type(rng: Random, value: Any) -> Any:
    return rng.choice(
        [None, True, [], {}, [value], {"a": value}, str(value), 3, 1.5, "x", [[], {}]]
    )


def _grown(rng: Random, value: Any) -> Any:
    count = rng.choice([3, 1_000, 20_000, 100_000])
    if isinstance(value, dict):
        return {**value, **{f"k{i}": 0 for i in range(count)}}
    return [value] * count


def _deepened(rng: Random, value: Any) -> Any:
    # Python's own encoder goes no deeper.
    return deep(rng.choice([5, 40, 300]), value)


REPLACED: dict[str, Callable[[Random, Any], Any]] = {
    "extreme value": _extreme,
    "other type": _type,
    "many values": _grown,
    "deep nesting": _deepened,
}
CHANGED = ("key dropped", "key renamed", "key doubled", "items moved")


def mutate(rng: Random, value: Any) -> tuple[Any, str]:
    """Return a copy of a JSON value with one change somewhere, and the change's name."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places:
        name = rng.choice(list(REPLACED))
        return REPLACED[name](rng, value), name
    name = rng.choice([*REPLACED, *REPLACED, *CHANGED])
    container, key = rng.choice(places)
    if name in REPLACED:
        container[key] = REPLACED[name](rng, container[key])
    elif isinstance(container, list):
        rng.shuffle(container)
        name = "items moved"
    elif name == "key dropped":
        del container[key]
    elif name == "key renamed":
        container[rng.choice([*STRINGS, key.upper(), f"{key}s"])] = container.pop(key)
    else:
        other = rng.choice(list(container))
        container[key], container[other] = container[other], container[key]
        name = "items moved"
    return value, name


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container with each of its keys or indices."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict | list):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            found += [(inner, key) for key in keys]
            pending += [inner[key] for key in keys]
    return found


def json_text(rng: Random, value: Any) -> tuple[bytes, str]:
    """Return a JSON text with a mutation of its value, or of the text."""
    if rng.random() < 0.8:
        value, name = mutate(rng, value)
        text = json.dumps(value).encode()
    else:
        text, name = mutate_bytes(rng, json.dumps(value).encode())
    if rng.random() < 0.1 and text.startswith(b"{") and b":" in text:
        return text[:-1] + b"," + text[1:], "key doubled"
    return text, name


def mutate_bytes(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Return changed bytes, and the change's name."""
    name = rng.choice(["bytes flipped", "truncated", "part doubled", "part replaced", "garbage"])
    changed = bytearray(content)
    start = rng.randrange(max(1, len(content)))
    end = min(len(content), start + rng.choice([1, 4, 100]))
    if name == "bytes flipped":
        for _ in range(rng.choice([1, 3, 30])):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif name == "truncated":
        changed = changed[:start]
    elif name == "part doubled":
        changed[start:start] = changed[start:end] * rng.choice([1, 1_000])
    elif name == "part replaced":
        number = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1])
        changed[start:end] = struct.pack("<Q", number)[: end - start]
    else:
        changed = bytearray(rng.choice([b"", b"\x00" * 99, rng.randbytes(500), b"[" * 100_000]))
    return bytes(changed), name
