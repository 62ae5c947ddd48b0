"""The forms that `classifier.source` takes."""

import re
from typing import Literal, get_args
from urllib.parse import urlsplit

# Networks that decrop brings (decrop/networks/registry.py builds them).
ClassifierArchitecture = Literal[
    "small_cnn",
    "cifar_resnet20",
    "cifar_resnet56",
    "cifar_resnet110",
    "resnet12",
    "resnet18",
    "alexnet",
    "half_alexnet",
]
SourceKind = Literal["registered", "factory", "timm", "torchvision", "program", "uri", "endpoint"]

AUTO = "auto"
_NAME = r"[A-Za-z_]\w*"
_FACTORY = re.compile(rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*")
_ENDPOINT = re.compile(r"https?://\S+")
_URI = re.compile(r"([a-z][a-z0-9+.-]*):/\S+")
_ZOO = re.compile(r"(timm|torchvision)/[\w.-]+")


def source_kind(source: str) -> SourceKind:
    """Return which form a source has.

    Raises:
        ValueError: it has none of them.
    """
    if source == AUTO or source in get_args(ClassifierArchitecture):
        return "registered"
    if zoo := _ZOO.fullmatch(source):
        return "timm" if zoo[1] == "timm" else "torchvision"
    if _ENDPOINT.fullmatch(source):
        return "endpoint"
    if _URI.fullmatch(source):
        return "uri"
    if source.endswith(".pt2"):
        return "program"
    if _FACTORY.fullmatch(source):
        return "factory"
    names = ", ".join(map(repr, [AUTO, *get_args(ClassifierArchitecture)]))
    raise ValueError(
        f"must be one of {names}, or package.module:function, timm/NAME, torchvision/NAME, "
        "FILE.pt2, the URI of a model, or the http(s) address of an endpoint"
    )


def imports_code(source: str) -> bool:
    """Tell whether a source is code of another package, which runs when it is imported.

    Raises:
        ValueError: it is no source.
    """
    return source_kind(source) in ("factory", "timm", "torchvision")


def check_endpoint(url: str) -> None:
    """Raise ValueError unless a URL can be asked, and recorded: it must hold no credentials."""
    if re.search("[@?#]", url):
        raise ValueError(
            "an endpoint's URL must hold no @, ? or #, with which users, passwords and keys are "
            "given, for it is recorded; a token goes by the environment variable that "
            "classifier.endpoint.token_variable names"
        )
    try:
        parts = urlsplit(url)
        possible = bool(parts.hostname) and parts.port != 0 and url.isascii()
    except ValueError:
        possible = False
    if not possible:
        raise ValueError("an endpoint is http(s)://HOST[:PORT]/PATH, as in …:5001/invocations")


def uri_scheme(source: str) -> str:
    """Return the part of a URI before its colon."""
    return source.partition(":")[0]
