"""Stage 0: a denoiser pretrained on dead leaves, without any image of the data (not in DE-CROP)."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from decrop.cache import ContentCache, Tensors
from decrop.config import DenoiserSettings, PriorSettings
from decrop.seeds import numpy_generator, torch_generator
from decrop.smoothing.execution import Precision, autocast
from decrop.synthesis.dead_leaves import dead_leaves
from decrop.training.denoiser import TrainingDivergedError
from decrop.training.initial import initial_denoiser

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 1
PRIOR = "prior"
# Steps between looks at the loss: each look makes the host wait for the device.
_CHECK_EVERY = 25


def prior_weights(
    settings: PriorSettings,
    denoiser: DenoiserSettings,
    *,
    sigma: float,
    image_shape: tuple[int, int, int],
    seed: int,
    precision: Precision,
    cache: ContentCache,
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensors | None:
    """Return the weights of a denoiser pretrained on noisy dead leaves, made now or in the cache.

    It starts from the trainer's own initialisation and minimises the mean squared error of the
    denoised images, by Adam with a one-cycle schedule. Neither images nor a classifier are used, so
    all trials that agree in the arguments share one entry. The result is None for kind `none`.

    Args:
        settings: kind, steps, batch size and peak learning rate.
        denoiser: architecture.
        sigma: standard deviation of the Gaussian noise, in [0,1] pixels.
        image_shape: channels, height and width of the images.
        seed: of initialisation, images and noise.
        precision: in which the denoiser computes; weights and loss are fp32.
        cache: where the weights are shared.
        device: where to train.
        on_step: called now and then with steps done and in all; never if the cache has the weights.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if settings.kind == "none":
        return None
    determined_by = {
        "version": _VERSION,
        "prior": settings.model_dump(),
        "denoiser": denoiser.model_dump(),
        "sigma": sigma,
        "image_shape": image_shape,
        "seed": seed,
        "precision": precision,
    }
    return cache.get(
        PRIOR,
        determined_by,
        lambda: _pretrain(settings, denoiser, sigma, image_shape, seed, precision, device, on_step),
    )


def _pretrain(
    settings: PriorSettings,
    denoiser_settings: DenoiserSettings,
    sigma: float,
    image_shape: tuple[int, int, int],
    seed: int,
    precision: Precision,
    device: torch.device,
    on_step: Callable[[int, int], None] | None,
) -> Tensors:
    channels, height, width = image_shape
    denoiser = initial_denoiser(
        denoiser_settings, image_channels=channels, seed=seed, device=device
    ).train()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    leaves = numpy_generator(seed, "dead leaves")
    noise = torch_generator(seed, "prior noise", device=device)
    for step in range(1, settings.steps + 1):
        images = dead_leaves(
            settings.batch_size,
            channels=channels,
            height=height,
            width=width,
            generator=leaves,
            device=device,
        )
        noisy = images + sigma * torch.randn(images.shape, generator=noise, device=device)
        with autocast(precision, device):
            denoised = denoiser(noisy.contiguous(memory_format=torch.channels_last))
        loss = F.mse_loss(denoised.float(), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % _CHECK_EVERY == 0 or step == settings.steps:
            # A loss that was not finite has made the weights, and all later losses, NaN.
            if not torch.isfinite(loss):
                raise TrainingDivergedError(
                    f"the loss is {loss.item()} in step {step} of the prior; "
                    "try a lower prior.learning_rate."
                )
            if on_step is not None:
                on_step(step, settings.steps)
    return denoiser.eval().state_dict()
