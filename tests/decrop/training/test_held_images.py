"""Images to train on that stay on the host change nothing but where they are."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from decrop.training.denoiser import DenoiserTrainer
from decrop.training.held_images import DEVICE_SHARE, fit_on, one_ahead, rows_of
from tests.decrop.tiny import CPU, random_samples, tiny_classifier, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_fits_a_share_of_the_device_is_kept_there(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [torch.zeros(25, 10), torch.zeros(25, 10)]
    assert fit_on(CPU, images)
    for memory, fits in ((2000 / DEVICE_SHARE, True), (1999 / DEVICE_SHARE, False)):
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=properties: p)
        assert fit_on(torch.device("cuda"), images) is fits


def test_rows_are_those_of_the_indices() -> None:
    images, rows = torch.arange(24).reshape(2, 4, 3), torch.tensor([3, 0])
    assert torch.equal(rows_of(images[0], rows, device=CPU), images[0][[3, 0]])
    which = torch.tensor([1, 0])
    assert torch.equal(rows_of(images, which, rows, device=CPU), images[[1, 0], [3, 0]])


def test_one_more_is_made_before_each_is_yielded() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    assert [(item, len(made)) for item in one_ahead(items())] == [(0, 2), (1, 3), (2, 3)]
    assert list(one_ahead([])) == []


def test_training_on_images_of_the_host_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> torch.Tensor:
        trainer = DenoiserTrainer(tiny_config(), tiny_classifier(), random_samples(20), CPU)
        trainer.run_epoch()
        trainer.run_epoch()
        return torch.cat([weight.flatten() for weight in trainer.weights().values()])

    on_device = trained()
    monkeypatch.setattr("decrop.training.denoiser.fit_on", lambda *_: False)
    assert torch.equal(trained(), on_device)
