"""The classifier behind an endpoint: only its predictions are known."""

import dataclasses
import os
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator
from torch import Tensor, nn

from decrop.black_box.client import TOKEN_VARIABLE, EndpointClient, WrongAnswerError
from decrop.black_box.memory import remembered
from decrop.black_box.protocol import as_sent, decode, encode, most_bytes
from decrop.black_box.sampler import EndpointBackend
from decrop.cache import ContentCache
from decrop.config import ClassNames, EndpointSettings, Settings, Side, Text, Word
from decrop.config.black_box import Answers, Pixels, Protocol, Scale
from decrop.config.classifier_source import check_endpoint, source_kind
from decrop.documents import validated
from decrop.errors import InputError
from decrop.files import sha256_of_json

# Logarithms of smaller probabilities would not be finite, as if the endpoint had failed.
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class EndpointFunction:
    """Everything known that decides an endpoint's answers.

    Attributes:
        url: of the endpoint that was certified, or is to be.
        answers: what it gives; auto until it is opened.
        pixels: what is done to images before they are sent.
        scale: that a white pixel is sent as.
        image_shape: channels, height and width.
    """

    url: str
    protocol: Protocol
    answers: Literal["auto", Answers]
    pixels: Pixels
    scale: Scale
    class_count: int
    image_shape: tuple[int, int, int]

    def content_hash(self) -> str:
        """Hash all of it."""
        return sha256_of_json(["endpoint", asdict(self)])

    def ask(
        self,
        client: EndpointClient,
        images: Tensor,
        *,
        retries: int | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[NDArray[np.float32], Answers]:
        """Ask for images by one request (and its repetitions).

        Args:
            images: float32 [B, C, H, W] in [0,1] pixels, plus noise, on the CPU, B >= 1.
            retries: instead of those of the client's settings.
            stop: once it is set, the request is not repeated any more.

        Returns:
            probabilities, float32 [B, K], and what the answer held.

        Raises:
            EndpointError: the endpoint does not answer, or not what a classifier must.
            QueryBudgetError: the budget does not suffice.
        """
        count, classes = len(images), self.class_count
        body = client.post(
            encode(self.protocol, as_sent(images, pixels=self.pixels, scale=self.scale)),
            images=count,
            most_bytes=most_bytes(count, classes),
            retries=retries,
            stop=stop,
        )
        try:
            found = decode(body, self.protocol, self.answers, count=count, class_count=classes)
        except ValueError as error:
            told = f"{client.url} {client.shown(error)}. {client.told(body)}"
            raise WrongAnswerError(told) from None
        client.ledger.answered(count)
        return found


class _Description(Settings):
    """classifier.json of an endpoint, behind which nobody knows what there is."""

    architecture: Text
    endpoint: EndpointSettings
    image_shape: tuple[Side, Side, Side]
    class_names: ClassNames
    hash: Word

    @field_validator("architecture")
    @classmethod
    def _a_url(cls, architecture: str) -> str:
        if source_kind(architecture) != "endpoint":
            raise ValueError("must be the http(s) URL of an endpoint")
        check_endpoint(architecture)
        return architecture

    @field_validator("endpoint")
    @classmethod
    def _found_out(cls, endpoint: EndpointSettings) -> EndpointSettings:
        if "auto" in (endpoint.protocol, endpoint.answers):
            raise ValueError("protocol and answers must be what was found, not auto")
        if endpoint.token_variable is not None:
            # A stranger's would choose which of the user's secrets is sent.
            raise ValueError("token_variable must not be given")
        return endpoint

    @property
    def function(self) -> EndpointFunction:
        """What decides the answers."""
        recorded = self.endpoint
        assert recorded.protocol != "auto"  # validated
        return EndpointFunction(
            url=self.architecture,
            protocol=recorded.protocol,
            answers=recorded.answers,
            pixels=recorded.pixels,
            scale=recorded.scale,
            class_count=len(self.class_names),
            image_shape=self.image_shape,
        )


class EndpointClassifier(nn.Module):
    """A classifier that is asked over HTTP; a `BlackBox`.

    There are no weights, gradients or features. Threads may share it; copies share connections and
    the count of queries; after pickling it opens connections of its own.

    Attributes:
        memory: of what it has answered other than `probabilities`; None where it forgets.
    """

    memory: ContentCache | None = None

    def __init__(self, function: EndpointFunction, client: EndpointClient) -> None:
        """Put a function behind a client.

        Args:
            client: of the endpoint's URL; where that is another one than the function's, the
                endpoint has moved, and is taken to be the same classifier.
        """
        super().__init__()
        self.function = function
        self.client = client
        self.class_count = function.class_count

    @property
    def url(self) -> str:
        """Return the address that is asked."""
        return self.client.url

    @property
    def architecture(self) -> str:
        """Return the address under which it is recorded."""
        return self.function.url

    @property
    def channels(self) -> int:
        """Return the number of channels of an image."""
        return self.function.image_shape[0]

    @property
    def backend(self) -> EndpointBackend:
        """Return how classes are sampled behind the endpoint (`backend_of`)."""
        return EndpointBackend(self.client, self.probabilities)

    def forward(self, images: Tensor) -> Tensor:
        """Return logarithms of probabilities, float32 [B, K], finite (see `probabilities`)."""
        if self.memory is None:
            found = self.probabilities(images)
        else:
            found = remembered(self, images, self.memory).to(images.device)
        return found.clamp(min=_SMALLEST).log()

    def probabilities(self, images: Tensor, *, stop: threading.Event | None = None) -> Tensor:
        """Return float32 [B, K] of images [B, C, H, W] in [0,1] pixels; one-hot from labels.

        Requests of at most `batch_size` images, of which `concurrency` are under way at once. Once
        `stop` is set nothing more is sent.

        Raises:
            EndpointError: the endpoint does not answer, or not what a classifier must.
            QueryBudgetError: the budget does not suffice.
        """
        parts = images.split(self.client.settings.batch_size) if len(images) else ()
        if not parts:
            return torch.zeros(0, self.class_count, device=images.device)
        if len(parts) == 1:
            return self._answer(images, stop)
        stop = stop or threading.Event()
        with ThreadPoolExecutor(min(self.client.settings.concurrency, len(parts))) as pool:
            asking = [pool.submit(self._answer, part, stop) for part in parts]
            try:
                return torch.cat([answer.result() for answer in asking])
            except BaseException:
                stop.set()
                raise

    def _answer(self, images: Tensor, stop: threading.Event | None) -> Tensor:
        """Return what `probabilities` does, by one request."""
        function = self.function
        if tuple(images.shape[1:]) != function.image_shape:
            raise InputError(
                f"{self.url} is asked for images {list(function.image_shape)} (channels, height, "
                f"width), not {list(images.shape[1:])}."
            )
        given = images.detach().float().cpu()
        if not given.isfinite().all():
            raise InputError(
                f"{self.url} cannot be asked for images with values that are not finite numbers; "
                "the denoiser gives these."
            )
        found, _ = function.ask(self.client, given, stop=stop)
        return torch.from_numpy(found).to(images.device)

    def content_hash(self) -> str:
        """Hash what determines the predictions, as far as it is known: not the weights behind."""
        return self.function.content_hash()

    def identity(self) -> str:
        """Return what decides the predictions (`decrop.networks.identity`)."""
        return self.content_hash()

    def stored(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Return what classifier.json says of it."""
        return {
            "architecture": self.architecture,
            "endpoint": self.recorded().model_dump(mode="json"),
            "image_shape": list(self.function.image_shape),
            "class_names": list(class_names),
            "hash": self.content_hash(),
        }

    @classmethod
    def from_stored(
        cls,
        found: dict[str, Any],
        path: Path,
        given: Path | str | nn.Module | None,
        *,
        trusted: bool,
    ) -> tuple[Self, tuple[str, ...]]:
        """Return the endpoint that the user names, as what is described, and its classes' names.

        Args:
            found: what `stored` returned.
            given: the URL that is asked, or an `EndpointClassifier`.
            trusted: whether the URL that is described may be asked.
        """
        description = validated(_Description, found, source=str(path))
        function, folder, url = description.function, path.parent, description.architecture
        if function.content_hash() != description.hash:
            raise InputError(f"{folder} was changed: its hash is not that of what it describes.")
        if isinstance(given, EndpointClassifier):
            if dataclasses.replace(given.function, url=url) != function:
                raise InputError(
                    f"The given endpoint is asked in another way than {folder} describes: "
                    f"{given.function}, where recorded is {function}."
                )
            return cls(function, given.client), description.class_names
        if given is None and trusted:
            given = url
        if not isinstance(given, str):
            raise InputError(
                f"{folder} describes the endpoint {url}, which is not asked unless you say so: "
                "name it, or where it is now, with --weights URL, or with classifier= in Python."
            )
        try:
            check_endpoint(given)
        except ValueError as error:
            raise InputError(f"The given URL cannot be used: {error}.") from None
        variable = TOKEN_VARIABLE if TOKEN_VARIABLE in os.environ else None
        settings = description.endpoint.model_copy(
            update={"token_variable": variable, "query_budget": None}
        )
        return cls(function, EndpointClient(given, settings)), description.class_names

    def white_box(self) -> typing.NoReturn:
        """Refuse to be taken for a network."""
        raise InputError(
            f"The classifier is behind the endpoint {self.url}, which gives predictions only; this "
            "needs its features or gradients."
        )

    def understood(self, images: Tensor) -> dict[str, Any]:
        """Return what `decrop inspect` says of it; None for what only a network could tell."""
        shape, function = tuple(images.shape[1:]), self.function
        nothing = ("parameters", "channel_order", "mean", "std", "feature_layer", "features")
        return {
            **dict.fromkeys(nothing),
            "architecture": f"an endpoint that gives {function.answers} ({function.protocol}); "
            f"pixels {function.pixels}, white is {function.scale}",
            "arguments": {},
            "image_shape": shape,
            "input_size": shape[1:],
        }

    def asked_as(self, settings: EndpointSettings | None, ledger_path: Path | None) -> Self:
        """Return the same function, asked by other settings and counted in another file.

        The bearer token stays where it is, unless the settings name another one.
        """
        assert settings is not None  # of an endpoint
        token = settings.token_variable or self.client.settings.token_variable
        settings = settings.model_copy(update={"token_variable": token})
        return type(self)(self.function, EndpointClient(self.url, settings, ledger_path))

    def recorded(self) -> EndpointSettings:
        """Return the settings to record: with what was found out, without what is this user's."""
        function = self.function
        return self.client.settings.model_copy(
            update={
                "protocol": function.protocol,
                "answers": function.answers,
                "pixels": function.pixels,
                "scale": function.scale,
                "token_variable": None,
                "query_budget": None,
            }
        )

    def extra_repr(self) -> str:
        """State everything that decides the answers."""
        described: dict[str, Any] = asdict(self.function)
        if self.url != self.function.url:
            described["moved_to"] = self.url
        return ", ".join(f"{name}={value!r}" for name, value in described.items())
