"""The opening of an endpoint: one image tells which protocol it speaks and what it gives."""

from dataclasses import replace
from pathlib import Path

import torch

from decrop.black_box.classifier import EndpointClassifier, EndpointFunction
from decrop.black_box.client import EndpointClient, WrongAnswerError
from decrop.config import ClassifierSettings
from decrop.config.black_box import Protocol
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
        ledger_path: file that counts the queries; None counts them in this process.

    Raises:
        EndpointError: the endpoint does not answer, or not for the dataset's classes.
        QueryBudgetError: the budget does not even suffice for this.
    """
    asked = settings.asked
    if asked is None:
        raise InputError(f"classifier.source: {settings.source} is no http(s) URL of an endpoint.")
    channels, height, width = dataset.train.shape
    client = EndpointClient(settings.source, asked, ledger_path)
    image = torch.rand((1, channels, height, width), generator=torch_generator(0, "trial image"))

    def classifier(protocol: Protocol, retries: int | None) -> EndpointClassifier:
        function = EndpointFunction(
            url=settings.source,
            protocol=protocol,
            answers=asked.answers,
            pixels=asked.pixels,
            scale=asked.scale,
            class_count=dataset.class_count,
            image_shape=(channels, height, width),
        )
        _, answers = function.ask(client, image, retries=retries)
        return EndpointClassifier(replace(function, answers=answers), client)

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
