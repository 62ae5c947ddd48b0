"""The settings of a surrogate: a network that imitates a classifier of which only answers come."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from decrop.config.classifier_source import ClassifierArchitecture
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.config.settings import (
    BatchSize,
    Count,
    NonNegative,
    Padding,
    Positive,
    Settings,
    Text,
)
from decrop.config.training import AugmentationPolicy

# What is asked, and what it does not depend on.
_OF_THE_IMAGES = {
    "queries",
    "mixed_share",
    "generated_share",
    "augmentation_policy",
    "crop_padding",
    "flip_probability",
    "mixing_alpha",
}


class SurrogateSettings(Settings):
    """How a surrogate is stolen from a classifier's answers; the denoiser is trained through it.

    The paper steals by Black-Box Ripper (Barbalau et al. 2020), which evolves images of a generator
    that was trained on other data, and gives no settings. Here is no other data: the black box is
    asked, once, about the limited images, moved and mixed ones, and dead leaves, and the surrogate
    is trained on its answers by cross-entropy.
    """

    architecture: ClassifierArchitecture = Field(
        "resnet18", description="Registered network (paper: resnet18 or half_alexnet)."
    )
    weights: Text | None = Field(
        None,
        description="safetensors file of a surrogate that `decrop classifier steal` has trained on "
        "these limited images; then only the held-out ones are asked about.",
    )
    queries: Count = Field(
        10_000,
        description="Images that the black box is asked about in all: the limited ones, of which "
        "those held out only measure agreement, and as many more as there is room for.",
    )
    mixed_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Of the further images: mixtures of moved limited images, mixup and cutmix in "
        "equal numbers.",
    )
    generated_share: float = Field(
        0.2, ge=0, le=1, description="Of the further images: dead leaves. What is left is moved."
    )
    augmentation_policy: AugmentationPolicy = Field(
        1,
        description="How limited images are moved: 1: random crop, then horizontal flip; 2: one of "
        "horizontal flip, vertical flip, random crop and affine; 3: all four.",
    )
    crop_padding: Padding = Field(4, description="Zero pixels added on each side before a crop.")
    flip_probability: float = Field(0.5, ge=0, le=1, description="Of each flip of the policy.")
    mixing_alpha: Positive = Field(
        1.0, description="An image's share in its mixture is drawn from Beta(alpha, alpha)."
    )
    epochs: Count = Field(30, description="Epochs over the images and their answers.")
    batch_size: BatchSize = Field(128, description="Images a step.")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd has momentum 0.9.")
    learning_rate: Positive = Field(
        3e-3, description="Highest learning rate of a one-cycle schedule."
    )
    weight_decay: NonNegative = Field(0.0, description="L2 weight decay.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="Of the surrogate while it is trained; weights and losses are fp32. auto is "
        "bf16 where the hardware computes in it.",
    )

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> Self:
        moved_share = 1 - self.mixed_share - self.generated_share
        if moved_share < -1e-9:
            raise ValueError(
                f"mixed_share ({self.mixed_share:g}) and generated_share "
                f"({self.generated_share:g}) must not exceed 1 together"
            )
        if self.augmentation_policy == "none" and moved_share > 1e-9:
            raise ValueError(
                f"augmentation_policy none moves no images, but mixed_share "
                f"({self.mixed_share:g}) and generated_share ({self.generated_share:g}) leave a "
                "share for moved ones; let them add up to 1"
            )
        return self

    def of_the_images(self) -> dict[str, Any]:
        """Return the settings, as JSON, that decide which images are asked about."""
        return self.model_dump(mode="json", include=_OF_THE_IMAGES)

    def training(self, seed: int) -> ClassifierTrainingSettings:
        """Return the settings of its training, which begins at random from `seed`."""
        return ClassifierTrainingSettings(
            objective="plain",
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            precision=self.precision,
            seed=seed,
        )
