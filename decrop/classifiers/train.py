"""Plain training of a classifier where no pretrained one is given."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.cache import Tensors
from decrop.config import ClassifierTrainingSettings
from decrop.seeds import seeded_globals, torch_generator


def train_classifier_network(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: ClassifierTrainingSettings,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> Tensors:
    """Train a network from scratch by cross-entropy on clean images; return its weights.

    Args:
        network: re-initialised before training.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        settings: Adam with a one-cycle schedule.
        mean: channel means in [0,1] pixels.
        std: channel standard deviations in [0,1] pixels.
        device: where to train.
    """
    with seeded_globals(settings.seed, "classifier initialisation"):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    network = network.to(device).train()
    statistics = torch.tensor([mean, std])[:, :, None, None].to(device)
    images = (images.to(device).float() / 255 - statistics[0]) / statistics[1]
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
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return {name: tensor.detach() for name, tensor in network.eval().state_dict().items()}
