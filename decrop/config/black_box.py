"""The settings of a classifier behind an HTTP endpoint, and of its surrogate."""

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

Protocol = Literal["mlflow", "plain"]
Answers = Literal["labels", "probabilities", "logits"]
Pixels = Literal["float", "clipped", "uint8"]
Scale = Literal[1, 255]


class EndpointSettings(Settings):
    """How an endpoint is asked; the fields up to `scale` are part of the certified function."""

    protocol: Literal["auto", Protocol] = Field(
        "auto",
        description="mlflow: {inputs: images} to {predictions: …}, as MLflow's scoring server; "
        "plain: {images: images} to {labels: …}, {probabilities: …} or {logits: …}; auto finds out "
        "by asking for one image.",
    )
    answers: Literal["auto", Answers] = Field(
        "auto",
        description="What an answer holds for each image: the number of its class, or one number "
        "for each class; auto takes those for probabilities where the first answer's add up to 1, "
        "else for logits.",
    )
    pixels: Pixels = Field(
        "float",
        description="What is done to a noisy (and denoised) image before it is sent: float, "
        "nothing; clipped, values leave [0,1] no more; uint8, they are rounded to 8 bits too.",
    )
    scale: Scale = Field(1, description="Value that a white pixel is sent as: 1, or 255.")
    batch_size: Count = Field(100, le=10_000, description="Most images in a request.")
    concurrency: Count = Field(
        4, le=256, description="Requests that one process has under way at once."
    )
    requests_per_second: Positive | None = Field(
        None,
        ge=1e-3,
        description="Most requests a second, of all processes together; no bound if None.",
    )
    timeout_seconds: Positive = Field(
        60.0, le=3600, description="Time in which a request must be answered whole."
    )
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="How often a request is repeated, after longer and longer waits or the one "
        "that the endpoint asks for, where it is refused a connection, times out, or is answered "
        "with status 429 or 5xx.",
    )
    token_variable: str | None = Field(
        None,
        max_length=200,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds a bearer token; the token itself "
        "is recorded nowhere.",
    )
    query_budget: Count | None = Field(
        None, description="Images that may be sent in all, repeated ones included; None: no bound."
    )


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
        1.0, description="An image's share in its mixture is sampled from Beta(alpha, alpha)."
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
