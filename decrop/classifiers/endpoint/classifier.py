"""The classifier that an endpoint is, as a network without weights."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from decrop.classifiers.endpoint.asking import ask
from decrop.classifiers.endpoint.client import EndpointClient
from decrop.classifiers.endpoint.ledger import QueryLedger
from decrop.classifiers.endpoint.pixels import as_sent
from decrop.config import EndpointSettings
from decrop.config.endpoint import Answers, Pixels, Protocol, Scale
from decrop.errors import InputError
from decrop.files import sha256_of_json

# Logarithms of smaller probabilities would not be finite, as if the endpoint had failed.
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class EndpointFunction:
    """Everything known that decides an endpoint's answers.

    Attributes:
        url: of the endpoint that was certified, or is to be.
        protocol: in which it is asked.
        answers: what it gives for each image.
        pixels: what is done to images before they are sent.
        scale: that a white pixel is sent as.
        class_count: K.
        image_shape: channels, height and width.
    """

    url: str
    protocol: Protocol
    answers: Answers
    pixels: Pixels
    scale: Scale
    class_count: int
    image_shape: tuple[int, int, int]

    def content_hash(self) -> str:
        """Hash all of it."""
        return sha256_of_json(["endpoint", asdict(self)])


class EndpointClassifier(nn.Module):
    """A classifier that is asked over HTTP; a `BlackBox`.

    There are no weights, gradients or features. Threads may share it; copies share connections and
    the count of queries; after pickling it opens connections of its own.
    """

    def __init__(self, function: EndpointFunction, client: EndpointClient) -> None:
        """Put a function behind a client.

        Args:
            function: what is asked for.
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

    def forward(self, images: Tensor) -> Tensor:
        """Return logarithms of probabilities, float32 [B, K], finite (see `probabilities`)."""
        return self.probabilities(images).clamp(min=_SMALLEST).log()

    def probabilities(self, images: Tensor, *, stop: threading.Event | None = None) -> Tensor:
        """Return float32 [B, K] of images [B, C, H, W] in [0,1] pixels; one-hot from labels.

        Requests of at most `batch_size` images, of which `concurrency` are under way at once. Once
        `stop` is set nothing more is sent.

        Raises:
            InputError: images are of another shape, or values are not finite.
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
        sent = as_sent(given, pixels=function.pixels, scale=function.scale)
        found, _ = ask(
            self.client,
            sent,
            protocol=function.protocol,
            answers=function.answers,
            class_count=self.class_count,
            stop=stop,
        )
        return torch.from_numpy(found).to(images.device)

    def content_hash(self) -> str:
        """Hash what determines the predictions, as far as it is known: not the weights behind."""
        return self.function.content_hash()

    def identity(self) -> str:
        """Return what decides the predictions (`decrop.networks.identity`)."""
        return self.content_hash()

    def asked_as(self, settings: EndpointSettings, ledger_path: Path | None) -> Self:
        """Return the same function, asked by other settings and counted in another file."""
        ledger = QueryLedger(
            ledger_path,
            budget=settings.query_budget,
            requests_per_second=settings.requests_per_second,
        )
        return type(self)(self.function, EndpointClient(self.url, settings, ledger))

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
