"""Plain training of a classifier where no pretrained one is given."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from decrop.cache import Tensors
from decrop.classifiers.classifier import Classifier
from decrop.config import ClassifierTrainingSettings
from decrop.seeds import seeded_globals, torch_generator


def train_classifier_network(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    settings: ClassifierTrainingSettings,
    device: torch.device,
) -> Tensors:
    """Train a copy of a classifier's network from scratch; return the weights.

    Cross-entropy on clean images, Adam with a one-cycle schedule.

    Args:
        classifier: whose architecture and channel standardisation are taken.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        settings: epochs, batch size, peak learning rate and seed.
        device: where to train.
    """
    network = copy.deepcopy(classifier.network).requires_grad_()
    with seeded_globals(settings.seed, "classifier initialisation"):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    network = network.to(device).train()
    standardised = ((images.float() / 255 - classifier.mean) / classifier.std).to(device)
    labels = labels.to(device)
    batches = -(-len(labels) // settings.batch_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * batches
    )
    for epoch in range(settings.epochs):
        generator = torch_generator(settings.seed, "classifier shuffling", epoch)
        order = torch.randperm(len(labels), generator=generator).to(device)
        # Equal parts: no batch is left with a single image, which BatchNorm could not take.
        for batch in order.tensor_split(batches):
            optimizer.zero_grad()
            F.cross_entropy(network(standardised[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return {name: tensor.detach() for name, tensor in network.eval().state_dict().items()}
