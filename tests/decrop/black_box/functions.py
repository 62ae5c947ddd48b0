"""Black boxes in this process, which remember what they were asked about."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.black_box.memory import remembered
from decrop.cache import ContentCache
from decrop.classifiers.classifier import Classifier
from decrop.config import ExecutionSettings
from decrop.errors import RunError
from decrop.files import sha256_of_json
from decrop.smoothing.backend import Backend
from decrop.smoothing.sampling import LocalSampler, SamplingTask

URL = "http://127.0.0.1:9/invocations"


def through_surrogate(queries: int, url: str = URL, **surrogate: object) -> tuple[str, ...]:
    """Return the settings of an endpoint from which a small network is trained."""
    given = {"architecture": "small_cnn", "queries": queries, **surrogate}
    own = (f"classifier.surrogate.{name}={value}" for name, value in given.items())
    return f"classifier.source={url}", "classifier.training=null", *own


class Paid(Backend):
    """This process, in which answers cost what those of an endpoint do: none is tried out."""

    costs = True

    def fitting(self, execution: ExecutionSettings, *_: Any, **__: Any) -> ExecutionSettings:
        return execution

    def sampler(self, task: SamplingTask, device: torch.device, *_: Any) -> LocalSampler:
        whole = task.network
        *before, target = whole if isinstance(whole, nn.Sequential) else [whole]
        network = nn.Sequential(*before, Sampled(target))
        return LocalSampler(dataclasses.replace(task, network=network), device)


class Sampled(nn.Module):
    """A black box as it answers images with noise, which it does not remember."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target = [target]

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor):
            raise TypeError("it is asked, not traced")
        answers: Tensor = self._target[0].probabilities(images.float())
        return answers.log()


class InProcess(nn.Module):
    """A classifier that tells its answers only.

    Attributes:
        asked: images it was asked about, float32, in the order of the questions.
        dies_after: images that it answers before it does not any more.
    """

    def __init__(self, classifier: Classifier, *, labels_only: bool = False) -> None:
        super().__init__()
        self.backend = Paid()
        self._hidden = [classifier]  # in a list, so that it is no module of this one
        self._labels_only = labels_only
        self.class_count = classifier.class_count
        self.memory: ContentCache | None = None
        self.asked: list[Tensor] = []
        self.dies_after: int | None = None

    def __deepcopy__(self, _: dict[int, Any]) -> "InProcess":
        return self  # as of an endpoint, whose copies spend from one budget

    @property
    def images_asked(self) -> int:
        return sum(map(len, self.asked))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        if self.dies_after is not None and self.images_asked + len(images) > self.dies_after:
            raise RunError("the black box is dead.")
        self.asked.append(images.clone())
        answers = self._hidden[0](images).softmax(1)
        if self._labels_only:
            answers = F.one_hot(answers.argmax(1), self.class_count).float()
        return answers

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor):
            raise TypeError("it is asked, not traced")
        if self.memory is None:
            return self.probabilities(images.float()).log()
        return remembered(self, images, self.memory).log()

    def content_hash(self) -> str:
        return sha256_of_json(["in process", self._hidden[0].content_hash(), self._labels_only])


def serve(patch: pytest.MonkeyPatch, target: InProcess) -> None:
    """Let settings whose source is `URL` reach a black box."""
    for module in ("decrop.trial.black_box", "decrop.training.surrogate"):
        patch.setattr(f"{module}.endpoint_classifier", lambda *arguments: target)
