"""The settings of training a classifier."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from decrop.config.components import Component, Table
from decrop.config.settings import (
    BatchSize,
    Count,
    NonNegative,
    Padding,
    Positive,
    Seed,
    Settings,
    Sigma,
    Text,
)


@dataclass(frozen=True)
class ClassifierObjectiveComponent(Component):
    """What a classifier is trained by.

    Attributes:
        noisy: whether images get noise.
        regularised: whether the loss has ADRE's regulariser.
        attacks: whether images are adversarial examples of the smoothed classifier.
    """

    noisy: bool = True
    regularised: bool = False
    attacks: bool = False


_LOSS = "decrop.training.classifier_losses:loss_terms"
# Builders take logits, labels and the settings below, and return the terms of the loss.
CLASSIFIER_OBJECTIVES = Table(
    ClassifierObjectiveComponent("plain", "cross-entropy on clean images", _LOSS, noisy=False),
    ClassifierObjectiveComponent(
        "gaussian", "cross-entropy on images with Gaussian noise", _LOSS, "Cohen et al. 2019"
    ),
    ClassifierObjectiveComponent(
        "adre_reg",
        "ADRE's regulariser on images with Gaussian noise",
        _LOSS,
        "Feng et al. 2020, eq. 5",
        regularised=True,
    ),
    ClassifierObjectiveComponent(
        "smooth_adv",
        "SmoothAdv, which is gaussian on adversarial examples of the smoothed classifier",
        _LOSS,
        "Salman et al. 2019",
        attacks=True,
    ),
    ClassifierObjectiveComponent(
        "adre_adv",
        "ADRE on adversarial examples with Gaussian noise, which maximise eq. 12",
        _LOSS,
        "Feng et al. 2020",
        regularised=True,
        attacks=True,
    ),
)
ClassifierObjective = Annotated[str, CLASSIFIER_OBJECTIVES]


class ClassifierTrainingSettings(Settings):
    """How the classifier is trained when no weights are given."""

    objective: ClassifierObjective = Field(
        "plain", description=f"What a step minimises. {CLASSIFIER_OBJECTIVES.help}."
    )
    sigma: Sigma | None = Field(
        None,
        description="All but plain: standard deviation of the Gaussian noise, in [0,1] pixels; the "
        "trial's sigma where not given.",
    )
    noise_samples: Count = Field(
        1,
        description="All but plain: k, noise samples of an image a step (Cohen: 1; ADRE on "
        "CIFAR-10: 8).",
    )
    cross_entropy_samples: Literal["all", "one"] = Field(
        "all",
        description="Noise samples in the cross-entropy: all k (ADRE, eq. 7), or one, the k being "
        "for the regulariser alone (ADRE's table 1).",
    )
    regularisation_weight: NonNegative = Field(
        0.1,
        description="adre_reg, adre_adv: lambda (CIFAR-10: 0.1, 0.2 or 0.3). With 0 they are "
        "gaussian and smooth_adv.",
    )
    attack_epsilon: Positive = Field(
        0.25,
        description="smooth_adv, adre_adv: L2 bound of the adversarial examples in [0,1] pixels.",
    )
    attack_steps: Count = Field(
        2,
        description="smooth_adv, adre_adv: steps of 2 epsilon / steps each (ADRE on CIFAR-10: 2).",
    )
    initial_weights: Text | None = Field(
        None,
        description="safetensors file of weights to start from; random ones where not given.",
    )
    trained_on: Literal["all", "without_held_out", "limited"] = Field(
        "all",
        description="The whole training split; all of it but the held-out images of the limited "
        "data, on which it can then be scored; or the limited data alone, without the held-out "
        "images until a trial is chosen for the test split. A sweep whose trials train classifiers "
        "compares them on those images, so it needs one of the latter two.",
    )
    epochs: Count = Field(30, description="Epochs over the training images.")
    batch_size: BatchSize = Field(128, description="Images a step.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd has momentum.")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum.")
    weight_decay: NonNegative = Field(0.0, description="L2 weight decay.")
    schedule: Literal["one_cycle", "drops"] = Field(
        "one_cycle",
        description="Of the learning rate: one_cycle rises to learning_rate and falls to zero; "
        "drops begins there and drops.",
    )
    learning_rate: Positive = Field(0.01, description="Highest learning rate.")
    learning_rate_drop_every: Count = Field(
        50, description="drops: epochs between drops (ADRE on CIFAR-10: 50)."
    )
    learning_rate_drop_factor: float = Field(
        0.1, gt=0, le=1, description="drops: factor of a drop (ADRE on CIFAR-10: 0.1)."
    )
    augmentation: Literal["none", "crop_and_flip"] = Field(
        "none", description="crop_and_flip: random crop, then horizontal flip (ADRE)."
    )
    crop_padding: Padding = Field(
        4, description="crop_and_flip: zero pixels added on each side before a crop."
    )
    flip_probability: float = Field(
        0.5, ge=0, le=1, description="crop_and_flip: of a horizontal flip."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="Of the network while it is trained; weights and losses are fp32. auto is bf16 "
        "where the hardware computes in it, so that machines may train different classifiers.",
    )
    seed: Seed = Field(
        0,
        description="Seed of initialisation, shuffling and noise; a trial without a denoiser adds "
        "its own seed.",
    )

    @property
    def noisy(self) -> bool:
        """Whether the objective adds noise."""
        return CLASSIFIER_OBJECTIVES[self.objective].noisy

    @property
    def attacks(self) -> bool:
        """Whether the objective trains on adversarial examples."""
        return CLASSIFIER_OBJECTIVES[self.objective].attacks

    @property
    def effective_regularisation_weight(self) -> float:
        """Lambda of the objective: 0 where it has no regulariser."""
        regularised = CLASSIFIER_OBJECTIVES[self.objective].regularised
        return self.regularisation_weight if regularised else 0.0
