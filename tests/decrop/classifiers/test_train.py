"""Training a classifier: it learns, is repeatable, and leaves everything else alone."""

import pytest
import torch
from torch import Tensor

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.train import train_classifier_network
from decrop.config import ClassifierTrainingSettings
from decrop.networks.small_cnn import SmallCNN
from decrop.seeds import torch_generator
from tests.decrop.tiny import CPU

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ClassifierTrainingSettings(epochs=2, batch_size=20, learning_rate=0.02)


def bright_quadrants(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with one bright quadrant, which is the class."""
    generator = torch_generator(seed, "bright quadrants")
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        # Stripes, for a pooled network does not see where something is.
        image[0, row : row + 4 : 1 + label // 2, column : column + 4 : 1 + label % 2] += 135
    return images.to(torch.uint8), labels


def untrained(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    network = SmallCNN(image_channels=1, class_count=4)
    return Classifier(network, architecture="small_cnn", mean=(0.3,), std=(0.3,), class_count=4)


IMAGES, LABELS = bright_quadrants(101, seed=0)


def trained(
    classifier: Classifier, settings: ClassifierTrainingSettings = SETTINGS
) -> dict[str, Tensor]:
    return train_classifier_network(classifier, IMAGES, LABELS, settings, CPU)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_trained_weights_classify_new_images() -> None:
    classifier = untrained()
    images, labels = bright_quadrants(100, seed=1)
    accuracy = (classifier(images.float() / 255).argmax(1) == labels).float().mean()
    assert accuracy < 0.6
    classifier.network.load_state_dict(
        trained(classifier, SETTINGS.model_copy(update={"epochs": 8}))
    )
    accuracy = (classifier(images.float() / 255).argmax(1) == labels).float().mean()
    assert accuracy > 0.9


def test_training_is_determined_by_its_seed() -> None:
    first = trained(untrained(seed=0))
    # Neither the weights of the given network nor the global generators matter.
    assert same(first, trained(untrained(seed=1)))
    other = trained(untrained(), SETTINGS.model_copy(update={"seed": 1}))
    assert not same(first, other)


def test_training_leaves_classifier_and_generators_alone() -> None:
    classifier = untrained()
    content, state = classifier.content_hash(), torch.get_rng_state()
    weights = trained(classifier)
    assert classifier.content_hash() == content
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(tensor.requires_grad for tensor in weights.values())


def orders(seed: int) -> list[list[int]]:
    """Train and return in which order each epoch took the images."""
    classifier = untrained()
    standardised = (IMAGES.float() / 255 - classifier.mean) / classifier.std
    steps: list[Tensor] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: steps.append(inputs[0]))
    trained(classifier, SETTINGS.model_copy(update={"seed": seed}))
    sizes = [len(step) for step in steps]
    assert len(sizes) == SETTINGS.epochs * 6 and max(sizes) <= SETTINGS.batch_size
    equal = (torch.cat(steps)[:, None] == standardised[None]).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()
    positions: list[int] = equal.int().argmax(1).tolist()
    return [positions[: len(IMAGES)], positions[len(IMAGES) :]]


def test_every_epoch_takes_each_image_once_in_an_order_of_its_own() -> None:
    taken = orders(seed=0) + orders(seed=1)
    assert all(sorted(order) == list(range(len(IMAGES))) for order in taken)
    assert len({tuple(order) for order in taken}) == 4
    assert orders(seed=0) == taken[:2]


@pytest.mark.parametrize("images", [1, 2, 21])
def test_few_images_and_steps_are_enough(images: int) -> None:
    settings = ClassifierTrainingSettings(epochs=1, batch_size=20)
    weights = train_classifier_network(untrained(), IMAGES[:images], LABELS[:images], settings, CPU)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
