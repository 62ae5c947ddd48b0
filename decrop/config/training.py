"""The settings of training the denoiser."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from decrop.config.components import Component, Table
from decrop.config.prior import PriorKind
from decrop.config.settings import (
    BatchSize,
    Count,
    CountOrZero,
    NonNegative,
    Padding,
    Positive,
    Settings,
    Share,
    Sigma,
    SigmaRange,
)

Optimizer = Literal["adam", "adam_then_sgd", "sgd", "one_cycle"]


@dataclass(frozen=True)
class ObjectiveComponent(Component):
    """What the denoiser is trained by.

    Attributes:
        adapts: whether it trains on generated samples, and in a last phase with the discriminator.
    """

    adapts: bool = False


# Builders take a `decrop.training.losses.Batch`, the networks, the `TrainingSettings` and the
# discriminator's scale or None, and return the terms of the loss.
OBJECTIVES = Table(
    ObjectiveComponent(
        "decrop",
        "DE-CROP's losses on boundary and interpolated samples",
        "decrop.training.losses:decrop_terms",
        "DE-CROP eq. 12",
        adapts=True,
    ),
    ObjectiveComponent(
        "stability",
        "the stability loss of denoised smoothing, which is DE-CROP's eq. 8 alone",
        "decrop.training.losses:stability_terms",
        "Salman et al. 2020",
    ),
    ObjectiveComponent(
        "mse",
        "mean squared error to the clean images",
        "decrop.training.losses:mse_terms",
        "Salman et al. 2020",
    ),
)
Objective = Annotated[str, OBJECTIVES]

AugmentationPolicy = Literal["none", 1, 2, 3]
Mixing = Literal["none", "mixup", "cutmix"]


class LossWeights(Settings):
    """The weights beta of DE-CROP eq. 12."""

    label_consistency: NonNegative = Field(1.0, description="beta 1 (paper: 1).")
    cosine: NonNegative = Field(4.0, description="beta 2 (paper: 4).")
    mmd: NonNegative = Field(4.0, description="beta 3 (paper: 4).")
    discriminator: NonNegative = Field(1.0, description="beta 4 (paper: 1).")
    boundary: NonNegative = Field(
        1.0, description="Of boundary samples in the sums of eqs. 9 and 10 (paper: 1)."
    )
    interpolated: NonNegative = Field(
        1.0, description="Of interpolated samples in the sums of eqs. 9 and 10 (paper: 1)."
    )
    generated_label_consistency: NonNegative = Field(
        0.0,
        description="Of eq. 8 on boundary and interpolated samples, whose target is the label of "
        "the clean image (paper: 0).",
    )
    distillation: NonNegative = Field(
        0.0,
        description="Of the distance of logits or feature maps from those of the clean image, see "
        "training.distillation (paper: 0).",
    )
    prior_squared_error: NonNegative = Field(
        100.0,
        description="Of the mean squared error on the images of training.prior_images, in [0,1] "
        "pixels.",
    )
    prior_distillation: NonNegative = Field(
        0.0, description="Of the distillation on the images of training.prior_images."
    )


class KernelSettings(Settings):
    """The kernel of the maximum mean discrepancy (DE-CROP eq. 10)."""

    kind: Literal["rbf", "inverse_multiquadric", "linear"] = Field(
        "rbf",
        description="rbf: sum of exp(-d^2 / w) (published); inverse_multiquadric: sum of "
        "w / (w + d^2), whose tails are heavier; linear: the distance of the means. w is each of "
        "bandwidth_factors times the mean squared distance in the batch.",
    )
    bandwidth_factors: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        min_length=1,
        max_length=16,
        description="rbf, inverse_multiquadric: factors of the bandwidth, one term of the sum each "
        "(published: 2^-2 to 2^2).",
    )


class DistillationSettings(Settings):
    """Distillation of what the classifier makes of clean images (not in DE-CROP)."""

    loss: Literal["kl", "mse", "feature_maps"] = Field(
        "kl",
        description="kl: Kullback-Leibler divergence of the softmax of denoised logits from that "
        "of clean ones (Hinton et al. 2015); mse: mean squared error of logits (Ba and Caruana "
        "2014); feature_maps: mean squared error of maps in the middle of the classifier, over the "
        "mean square of the clean ones (Romero et al. 2015).",
    )
    stages: Count = Field(
        2,
        le=64,
        description="feature_maps: how many of the classifier's last stages are compared, each "
        "with maps of one size.",
    )
    temperature: float = Field(
        1.0, ge=0.01, le=1000, description="kl: by which logits are divided before the softmax."
    )
    views: Literal["clean", "all"] = Field(
        "clean",
        description="decrop: which denoised views are compared with the clean image: that of the "
        "clean image, or those of boundary and interpolated samples too.",
    )


class AdversarialSettings(Settings):
    """Adversarial examples in place of the clean images under noise (not in DE-CROP)."""

    epsilon: NonNegative = Field(
        0.0,
        description="L2 bound of the perturbation of a clean image in [0,1] pixels, beside its "
        "noise, that maximises the smoothed classifier's cross-entropy (SmoothAdv, Salman et al. "
        "2019). 0: none (paper). Not in the epochs of the squared error.",
    )
    steps: Count = Field(
        1, description="Steps of 2 epsilon / steps each, with the noise draws of the step."
    )


class PriorImagesSettings(Settings):
    """Generated images in every step beside those of the data (not in DE-CROP)."""

    kind: PriorKind = Field(
        "none",
        description="Of the images, as in prior.kind, whose pretraining goes before and needs no "
        "classifier.",
    )
    count: BatchSize = Field(50, description="Images a step, each used once.")


class PhaseSettings(Settings):
    """What a phase of the training has of its own."""

    optimizer: Optimizer | None = Field(
        None, description="training.optimizer where not given (paper)."
    )
    learning_rate: Positive | None = Field(
        None, description="Initial; training.learning_rate where not given (paper)."
    )


class DiscriminatorSettings(Settings):
    """The domain discriminator (DE-CROP eq. 11) behind a gradient reversal layer."""

    hidden_units: Count = Field(
        100, le=65_536, description="Units of the hidden layer (paper: 100)."
    )
    outputs: Literal[1, 2] = Field(
        1,
        description="1: the logit of clean (eq. 11); 2: a logit of each domain (published), whose "
        "difference Adam moves twice as fast.",
    )
    learning_rate: Positive = Field(1e-5, description="Adam learning rate (paper: 1e-5).")
    reversal_scale: NonNegative = Field(
        1.0,
        description="Scale of the reversed gradient before beta 4 and the ramp (published: 2), of "
        "eq. 11 as a mean over both domains.",
    )


class AugmentationSettings(Settings):
    """Augmentation of the training images (section 4 of the paper's supplement)."""

    policy: AugmentationPolicy = Field(
        1,
        description="1: random crop, then horizontal flip; 2: one of horizontal flip, vertical "
        "flip, random crop and affine; 3: all four (paper's best: 1).",
    )
    crop_padding: Padding = Field(4, description="Zero pixels added on each side before a crop.")
    flip_probability: float = Field(0.5, ge=0, le=1, description="Of each flip of the policy.")
    rotation_degrees: float = Field(
        10.0, ge=0, le=180, description="2, 3: most that the affine transform rotates (paper: 10)."
    )
    translation_width: Share = Field(
        0.25, description="2, 3: most that it shifts to a side, as a share of the width (paper)."
    )
    translation_height: Share = Field(
        0.5, description="2, 3: most that it shifts up or down, as a share of the height (paper)."
    )
    mixing: Mixing = Field(
        "none",
        description="After the policy, mix images of a batch: mixup (Zhang et al. 2018) or cutmix "
        "(Yun et al. 2019).",
    )
    mixing_alpha: Positive = Field(
        1.0,
        description="The share of an image in its mixture is sampled from Beta(alpha, alpha) "
        "(CIFAR-10 in both papers: 1).",
    )
    views: Literal["matched", "independent"] = Field(
        "matched",
        description="Whether the three views of an image share all random choices (published: "
        "independent).",
    )


class TrainingSettings(Settings):
    """The phases of training the denoiser."""

    objective: Objective = Field("decrop", description=f"What a step minimises. {OBJECTIVES.help}.")
    generated_samples: Literal["boundary_and_interpolated", "boundary", "interpolated"] = Field(
        "boundary_and_interpolated",
        description="decrop: samples whose losses DE-CROP eqs. 9 and 10 sum (paper: both).",
    )
    sigma: Sigma | SigmaRange | None = Field(
        None,
        description="Standard deviation of the noise in training, in [0,1] pixels: a number, "
        "or [lowest, highest] of the one that each image gets in a step at random; the sigma that "
        "is certified where not given. A denoiser that takes sigma is told it.",
    )
    noise_draws: int = Field(
        1,
        ge=1,
        le=64,
        description="Noise draws of each image in a step, whose losses are averaged (paper: 1); "
        "time and memory grow with them.",
    )
    noise_of_views: Literal["shared", "independent"] = Field(
        "shared",
        description="Whether clean, boundary and interpolated sample of an image get the same "
        "noise (published: shared).",
    )
    last_layers: CountOrZero = Field(
        0,
        description="Trains the last so many convolutions and linear layers alone, with what is "
        "between them; the others keep weights and statistics. 0 trains all.",
    )
    mse_epochs: CountOrZero = Field(
        0,
        description="Epochs of the squared error to the clean image before the others (denoised "
        "smoothing's MSE, then stability).",
    )
    epochs: Count = Field(600, description="Epochs without the discriminator (paper: 600).")
    discriminator_epochs: CountOrZero = Field(
        600, description="decrop: epochs with the discriminator (paper: 600)."
    )
    batch_size: BatchSize = Field(200, description="Images a step (published: 200).")
    optimizer: Optimizer = Field(
        "adam",
        description="adam (published code), adam_then_sgd (paper: SGD after adam_epochs), sgd, or "
        "one_cycle: Adam whose learning rate rises to learning_rate and falls to zero in a phase.",
    )
    learning_rate: Positive = Field(1e-3, description="Initial learning rate (paper: 1e-3).")
    learning_rate_drop_every: Count = Field(
        200, description="Epochs of a phase between drops of the learning rate (paper: 200)."
    )
    learning_rate_drop_factor: float = Field(
        0.1, gt=0, le=1, description="Factor of a drop (paper: 0.1)."
    )
    adam_epochs: Count = Field(50, description="Epochs of Adam in adam_then_sgd (paper: 50).")
    weight_decay: NonNegative = Field(1e-4, description="L2 weight decay (published: 1e-4).")
    gradient_norm: NonNegative = Field(
        0.0,
        description="L2 norm to which the gradient of the denoiser's weights is scaled down in a "
        "step where it is larger; 0 leaves it (paper).",
    )
    l1_penalty: NonNegative = Field(
        0.0, description="Weight of the L1 norm of the denoiser's weights in the loss."
    )
    averaging_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay a step of the moving average of the weights that is kept as the "
        "denoiser; 0 keeps the last weights.",
    )
    loss_weights: LossWeights = LossWeights()
    mmd_kernel: KernelSettings = KernelSettings()
    distillation: DistillationSettings = DistillationSettings()
    adversarial: AdversarialSettings = AdversarialSettings()
    prior_images: PriorImagesSettings = PriorImagesSettings()
    mse_phase: PhaseSettings = PhaseSettings()
    discriminator_phase: PhaseSettings = PhaseSettings()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    evaluations: Count = Field(
        4,
        description="Held-out scores of a trial, the last after the last epoch and none within "
        "mse_epochs; used for pruning.",
    )
    early_stopping: bool = Field(
        False,
        description="Whether a trial keeps the weights of its best held-out score instead of its "
        "last; the training on the whole limited data then ends at that epoch.",
    )

    @model_validator(mode="after")
    def _scores_to_choose_from(self) -> Self:
        if self.early_stopping and self.evaluations < 2:
            raise ValueError(
                f"evaluations ({self.evaluations}) must be at least 2 with early_stopping, which "
                "chooses between them"
            )
        return self

    def of_phase(self, phase: int) -> Self:
        """Return the settings with the optimiser and learning rate of a phase."""
        own = {0: self.mse_phase, 2: self.discriminator_phase}.get(phase, PhaseSettings())
        return self.model_copy(update=own.model_dump(exclude_none=True))

    @property
    def phase_epochs(self) -> tuple[int, int, int]:
        """Epochs of phase 0 (squared error), 1 (the objective) and 2 (with the discriminator)."""
        with_discriminator = self.discriminator_epochs if OBJECTIVES[self.objective].adapts else 0
        return self.mse_epochs, self.epochs, with_discriminator
