"""From settings to a classifier behind an endpoint, which is asked for one image."""

from pathlib import Path

import torch

from decrop.classifiers.endpoint.asking import ask
from decrop.classifiers.endpoint.classifier import EndpointClassifier, EndpointFunction
from decrop.classifiers.endpoint.client import EndpointClient
from decrop.classifiers.endpoint.errors import WrongAnswerError
from decrop.classifiers.endpoint.ledger import QueryLedger
from decrop.classifiers.endpoint.pixels import as_sent
from decrop.config import ClassifierSettings, EndpointSettings
from decrop.config.endpoint import Protocol
from decrop.data.datasets import Dataset
from decrop.errors import InputError
from decrop.seeds import torch_generator

_MLFLOW_PATH = "/invocations"


def endpoint_classifier(
    settings: ClassifierSettings, dataset: Dataset, ledger_path: Path | None
) -> EndpointClassifier:
    """Ask an endpoint for one image of noise, and return the classifier that it is.

    Where the protocol is `auto` and the likelier one is not understood, it is asked once more.

    Args:
        settings: whose source is the endpoint's URL.
        dataset: whose images and classes it takes.
        ledger_path: file that counts the queries; None counts them in this process.

    Raises:
        InputError: the source is no endpoint, the token's variable is not set, or the file is not
            that of a ledger.
        EndpointError: the endpoint does not answer, or not for the dataset's classes.
        QueryBudgetError: the budget does not even suffice for this.
    """
    asked = settings.asked
    if asked is None:
        raise InputError(f"classifier.source: {settings.source} is no http(s) URL of an endpoint.")
    channels, height, width = dataset.train.shape
    client = client_of(settings.source, asked, ledger_path)
    image = torch.rand((1, channels, height, width), generator=torch_generator(0, "trial image"))
    sent = as_sent(image, pixels=asked.pixels, scale=asked.scale)

    def classifier(protocol: Protocol, retries: int | None) -> EndpointClassifier:
        _, answers = ask(
            client,
            sent,
            protocol=protocol,
            answers=asked.answers,
            class_count=dataset.class_count,
            retries=retries,
        )
        function = EndpointFunction(
            url=settings.source,
            protocol=protocol,
            answers=answers,
            pixels=asked.pixels,
            scale=asked.scale,
            class_count=dataset.class_count,
            image_shape=(channels, height, width),
        )
        return EndpointClassifier(function, client)

    if asked.protocol != "auto":
        return classifier(asked.protocol, None)
    likely: tuple[Protocol, Protocol] = ("mlflow", "plain")
    if not settings.source.rstrip("/").endswith(_MLFLOW_PATH):
        likely = ("plain", "mlflow")
    for protocol in likely:
        try:
            # No repetitions: an endpoint may well answer a protocol that it lacks with status 500.
            return classifier(protocol, 0)
        except WrongAnswerError:
            continue
    return classifier(likely[0], None)


def client_of(url: str, settings: EndpointSettings, ledger_path: Path | None) -> EndpointClient:
    """Return a client that counts its queries in a file, or in this process.

    Raises:
        InputError: the token's variable is not set, or the file is not that of a ledger.
    """
    ledger = QueryLedger(
        ledger_path,
        budget=settings.query_budget,
        requests_per_second=settings.requests_per_second,
    )
    return EndpointClient(url, settings, ledger)
