"""Training of the denoiser, phase by phase (DE-CROP, eq. 12)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decrop.classifiers.classifier import Classifier
from decrop.classifiers.feature_maps import Outputs, StagedClassifier, find_stages
from decrop.config import DenoiserSettings, TrainingSettings, TrialConfig
from decrop.config.prior import PRIORS
from decrop.config.training import OBJECTIVES
from decrop.data.augmentation import augment_views, augments
from decrop.denoisers.sources import OpenedDenoiser, open_denoiser
from decrop.errors import InputError
from decrop.networks.conditional import SigmaConditional
from decrop.networks.discriminator import Discriminator
from decrop.seeds import numpy_generator, seeded_globals, torch_generator
from decrop.smoothing.execution import autocast, resolve_precision
from decrop.smoothing.prepare import copied, folded
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.held_images import fit_on, one_ahead, rows_of
from decrop.training.loop import Stateful, Terms, Trainer
from decrop.training.losses import (
    Batch,
    LossTerms,
    Networks,
    PriorImages,
    View,
    prior_terms,
    total_loss,
    with_adversarial_noise,
)
from decrop.training.schedule import (
    Phase,
    denoiser_schedule,
    phase_and_epoch,
    reversal_scale,
)

# Images that the classifier sees at once beside a step's.
_AT_ONCE = 256


def initial_denoiser(
    settings: DenoiserSettings,
    *,
    image_channels: int,
    sigma: float,
    seed: int,
    device: torch.device,
    opened: OpenedDenoiser | None = None,
) -> nn.Module:
    """Build the denoiser that training starts from, in channels_last layout.

    Args:
        sigma: standard deviation of the noise that it is told, in [0,1] pixels.
        seed: of random weights; the same one gives the same.
        opened: the denoiser, where it is opened already; it stays as it is.
    """
    with seeded_globals(seed, "denoiser initialisation"):
        if opened is None:
            opened = open_denoiser(settings, image_channels=image_channels, sigma=sigma)
    denoiser = copied(opened.network)
    # No overload of `to` in PyTorch's annotations takes a memory format.
    return denoiser.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def sampled_sigma(
    sigma: float | tuple[float, float], images: int, generator: torch.Generator
) -> Tensor:
    """Return the standard deviation of the noise of each image, [images].

    Args:
        sigma: of all, or the ends of the interval from which each gets its own.
        generator: a CPU generator; not used where all have the same.
    """
    if isinstance(sigma, tuple):
        low, high = sigma
        return low + (high - low) * torch.rand(images, generator=generator)
    return torch.full((images,), sigma)


@dataclass(frozen=True)
class EpochRecord:
    """Means over the steps of an epoch, counted from 1 through all phases.

    A term is None where the phase's objective does not have it. The cosine similarity is the mean
    over views, by their weights; the other terms are as in the objective.
    """

    epoch: int
    phase: Phase
    learning_rate: float
    label_consistency: float | None
    cosine_similarity: float | None
    mmd: float | None
    discriminator: float | None
    squared_error: float | None
    total: float
    seconds: float
    generated_label_consistency: float | None = None
    distillation: float | None = None
    prior_squared_error: float | None = None
    prior_distillation: float | None = None


class DenoiserTrainer(Trainer[EpochRecord, Batch]):
    """Trains a denoiser on stage-1 samples.

    The discriminator is fresh in its phase, the optimiser in every phase.
    """

    record_type = EpochRecord
    remedy = "a lower training.learning_rate or smaller training.loss_weights"

    def __init__(
        self,
        config: TrialConfig,
        classifier: Classifier,
        samples: SyntheticSamples,
        device: torch.device,
        initial_weights: Mapping[str, Tensor] | None = None,
        opened: OpenedDenoiser | None = None,
    ) -> None:
        """Begin a training.

        Args:
            initial_weights: of the denoiser; those of its source, or of the seed, if None.
            opened: the denoiser of the settings, where it is opened already.
        """
        denoiser = initial_denoiser(
            config.denoiser,
            image_channels=samples.clean.shape[1],
            sigma=config.sigma,
            seed=config.seed,
            device=device,
            opened=opened,
        )
        if initial_weights is not None:
            denoiser.load_state_dict(initial_weights)
        self._frozen = freeze_all_but_last(denoiser, config.training.last_layers)
        super().__init__(
            denoiser,
            denoiser_schedule(config.training, len(samples.clean)),
            precision=resolve_precision(config.execution.training_precision, device),
            device=device,
        )
        self._sigma = config.sigma if config.training.sigma is None else config.training.sigma
        self._seed = config.seed
        self._settings = config.training
        # A copy, in which BatchNorms cost nothing.
        self._classifier = StagedClassifier(
            folded(classifier), distilled_stages(config.training, classifier, samples.clean)
        ).to(device)
        images = samples.clean, samples.boundary, samples.interpolated
        self._on_device = fit_on(device, images)
        held = [kind.to(device) if self._on_device else kind for kind in images]
        self._clean, self._boundary, self._interpolated = held
        keep_all = config.boundary.on_failure == "keep"
        self._boundary_used = (samples.flipped | keep_all).to(device)
        # Without augmentation the classifier sees the same clean images in every epoch; maps of all
        # would not fit.
        self._clean_outputs = None
        if not (augments(self._settings.augmentation) or self._classifier.stages):
            with torch.no_grad():
                parts = [self._classify(part.to(device)) for part in self._clean.split(_AT_ONCE)]
            self._clean_outputs = Outputs(
                torch.cat([part.logits for part in parts]),
                torch.cat([part.features for part in parts]),
            )
        self._average = None
        if self._settings.averaging_decay:
            averaging = get_ema_multi_avg_fn(self._settings.averaging_decay)
            self._average = AveragedModel(denoiser, multi_avg_fn=averaging, use_buffers=True)
        with seeded_globals(self._seed, "discriminator initialisation"):
            self._discriminator = Discriminator(
                features=self._classifier.classifier.feature_count(self._clean[:1].to(device)),
                hidden_units=self._settings.discriminator.hidden_units,
                outputs=self._settings.discriminator.outputs,
            ).to(device)
        self._discriminator_optimizer = torch.optim.Adam(
            self._discriminator.parameters(), lr=self._settings.discriminator.learning_rate
        )

    @property
    def denoiser(self) -> nn.Module:
        """The denoiser as trained so far: the last weights, or their moving average."""
        return self.network if self._average is None else self._average.module

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "denoiser": self.network,
            "optimizer": self._optimizer,
            "discriminator": self._discriminator,
            "discriminator_optimizer": self._discriminator_optimizer,
        }
        return parts if self._average is None else {**parts, "average": self._average}

    def _record(self, epoch: int, means: Mapping[str, float], **timing: float) -> EpochRecord:
        terms: dict[str, Any] = {term.name: means.get(term.name) for term in fields(LossTerms)}
        return EpochRecord(
            epoch=epoch,
            phase=phase_and_epoch(self._settings, epoch - 1)[0],
            discriminator=terms.pop("domain"),
            total=means["total"],
            **terms,
            **timing,
        )

    def _batches(self, epoch: int) -> Iterator[Batch]:
        batches = self._made_batches(epoch)
        return batches if self._on_device else one_ahead(batches)

    def _made_batches(self, epoch: int) -> Iterator[Batch]:
        choices = torch_generator(self._seed, "training", epoch)
        noise = torch_generator(self._seed, "training noise", epoch, device=self._device)
        sigmas = torch_generator(self._seed, "training sigma", epoch)
        count, images = self._interpolated.shape[:2]
        order = torch.randperm(images, generator=choices)
        prior_images = self._prior_images(epoch)
        phase, _ = phase_and_epoch(self._settings, epoch)
        weights = self._view_weights(phase)
        draws = self._settings.noise_draws
        independent = self._settings.noise_of_views == "independent"
        # Equal parts: no step has a single image, which BatchNorm could not take.
        for rows in order.tensor_split(self.steps_an_epoch):
            which = torch.randint(count, (len(rows),), generator=choices)
            clean, boundary, interpolated = augment_views(
                [
                    rows_of(self._clean, rows, device=self._device),
                    rows_of(self._boundary, rows, device=self._device),
                    rows_of(self._interpolated, which, rows, device=self._device),
                ],
                self._settings.augmentation,
                choices,
            )
            rows = rows.to(self._device).repeat(draws)
            sigma = sampled_sigma(self._sigma, len(rows), sigmas).to(self._device)
            clean = _repeated(clean, draws)
            clean_noise = self._noise_like(clean, sigma, noise)
            views = {
                "interpolated": (interpolated, None),
                "boundary": (boundary, self._boundary_used[rows]),
            }
            generated = []
            for name, weight in weights.items():
                view, used = views[name]
                view = _repeated(view, draws)
                own = self._noise_like(view, sigma, noise) if independent else clean_noise
                generated.append(View(view, own, weight, used))
            yield Batch(
                clean=clean,
                noise=clean_noise,
                sigma=sigma,
                generated=tuple(generated),
                clean_outputs=self._clean_outputs_of(rows),
                draws=draws,
                prior=next(prior_images),
            )

    def _prior_images(self, epoch: int) -> Iterator[PriorImages | None]:
        """Make the generated images of each step of an epoch, None where there are to be none."""
        settings = self._settings.prior_images
        if settings.kind == "none":
            yield from repeat(None)
        shape = settings.count, *self._clean.shape[1:]
        choices = numpy_generator(self._seed, "prior images", epoch)
        noise = torch_generator(self._seed, "noise of prior images", epoch, device=self._device)
        sigmas = torch_generator(self._seed, "sigma of prior images", epoch)
        while True:
            images = PRIORS.build(settings.kind, shape, choices, self._device)
            sigma = sampled_sigma(self._sigma, len(images), sigmas).to(self._device)
            yield PriorImages(images, self._noise_like(images, sigma, noise), sigma)

    def _view_weights(self, phase: Phase) -> dict[str, float]:
        """Return the weights of the kinds of generated samples that a phase trains on."""
        weights = self._settings.loss_weights
        of_kinds = {"interpolated": weights.interpolated, "boundary": weights.boundary}
        adapts = OBJECTIVES[self._objective(phase)].adapts
        return {
            kind: weight
            for kind, weight in of_kinds.items()
            if weight and adapts and kind in self._settings.generated_samples
        }

    def _noise_like(self, images: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(images.shape, generator=generator, device=self._device)
        return sigma[:, None, None, None] * drawn

    def _clean_outputs_of(self, rows: Tensor) -> Outputs | None:
        return None if self._clean_outputs is None else self._clean_outputs.of_rows(rows)

    def _objective(self, phase: Phase) -> str:
        return "mse" if phase == 0 else self._settings.objective

    def _step(self, batch: Batch) -> Terms:
        epochs_done, step = divmod(self.steps_done, self.steps_an_epoch)
        phase, epoch = phase_and_epoch(self._settings, epochs_done)
        scale = None
        if phase == 2:
            progress = (epoch + step / self.steps_an_epoch) / self._settings.phase_epochs[phase]
            scale = reversal_scale(self._settings, progress)
        networks = Networks(self._denoise, self._classify, self._discriminator)
        if phase and self._settings.adversarial.epsilon:
            # As SmoothAdv's published code attacks: in eval mode, so that BatchNorm's statistics
            # are not those of attacks under way.
            self.network.eval()
            batch = with_adversarial_noise(batch, networks, self._settings.adversarial)
            self.network.train()
        for layer in self._frozen:
            layer.eval()
        # First, so that BatchNorm's running statistics are those of the data.
        prior = {} if batch.prior is None else prior_terms(batch.prior, networks, self._settings)
        terms: LossTerms = OBJECTIVES.build(
            self._objective(phase), batch, networks, self._settings, scale
        )
        terms = replace(terms, **prior)
        total = total_loss(terms, self._settings.loss_weights)
        if self._settings.l1_penalty:
            norm = sum(weight.abs().sum() for weight in self.network.parameters())
            total = total + self._settings.l1_penalty * norm
        discriminating = [] if terms.domain is None else [self._discriminator_optimizer]
        self._descend(total, *discriminating)
        if self._average is not None:
            self._average.update_parameters(self.network)
        found = {field.name: getattr(terms, field.name) for field in fields(LossTerms)}
        values = {name: value for name, value in found.items() if value is not None}
        # DE-CROP eq. 9 adds the views up; their mean is what a reader knows as a similarity.
        views = sum(view.weight for view in batch.generated)
        if terms.cosine_similarity is not None and views:
            values["cosine_similarity"] = terms.cosine_similarity / views
        return Terms({**values, "total": total})

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        told = (sigma,) if isinstance(self.network, SigmaConditional) else ()
        return self._forward(self.network, noisy, *told)

    def _classify(self, images: Tensor) -> Outputs:
        with autocast(self.precision, self._device):
            outputs = self._classifier.outputs(images)
        return outputs.each(Tensor.float)


def _repeated(images: Tensor, times: int) -> Tensor:
    # A copy would have another memory layout, in which the classifier's last bits may differ.
    return images if times == 1 else images.repeat(times, 1, 1, 1)


def distilled_stages(
    settings: TrainingSettings, classifier: Classifier, images: Tensor
) -> tuple[str, ...]:
    """Name the stages of a classifier whose maps of images [N, C, H, W] a training compares."""
    weights = settings.loss_weights
    if settings.distillation.loss != "feature_maps" or not (
        weights.distillation or weights.prior_distillation
    ):
        return ()
    channels, height, width = images.shape[1:]
    stages = find_stages(classifier, (channels, height, width), most=settings.distillation.stages)
    if not stages:
        raise InputError(
            "training.distillation.loss: feature_maps needs modules of the classifier that give "
            f"maps [batch, channels, height, width]; {classifier.architecture} has none. Use kl or "
            "mse, which compare logits."
        )
    return stages


def freeze_all_but_last(network: nn.Module, layers: int) -> list[nn.Module]:
    """Let all weights keep their values but those of the last `layers`, and what lies between them.

    Layers are convolutions and linear layers, in the order in which the network lists them.

    Returns:
        the modules before them, which are to stay in eval mode; none where `layers` is 0.
    """
    if not layers:
        return []
    modules = list(network.modules())
    starts = [
        position
        for position, module in enumerate(modules)
        if any(weight.dim() > 1 for weight in module.parameters(recurse=False))
    ]
    if layers > len(starts):
        raise InputError(
            f"training.last_layers is {layers}, but the denoiser has {len(starts)} convolutions "
            "and linear layers; give at most as many, or 0 to train all."
        )
    frozen = modules[: starts[-layers]]
    for module in frozen:
        for weight in module.parameters(recurse=False):
            weight.requires_grad_(False)
    # A container's mode is that of all in it.
    return [module for module in frozen if not list(module.children())]
