"""The settings of a rejector: its network, its training and how it is consulted."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from decrop.config.settings import (
    BatchSize,
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    Probability,
    Seed,
    Settings,
    Text,
)
from decrop.config.training import AugmentationSettings

# The blocks of a ResNet, after each of which features of the classifier are appended.
BLOCKS = 4

BlockDepth = Annotated[int, Field(ge=1, le=64)]


class RejectorSettings(Settings):
    """Per-class rejectors on a shared backbone (Sheikholeslami et al. 2022, section 6)."""

    width: int = Field(
        64, ge=4, le=512, description="Channels of the first block; each next has twice as many."
    )
    blocks: tuple[BlockDepth, BlockDepth, BlockDepth, BlockDepth] = Field(
        (3, 4, 6, 3), description="Residual units of each of the four blocks (paper: ResNet-34)."
    )
    hidden_units: int = Field(
        512,
        ge=1,
        le=4096,
        description="Units of the two fully connected layers before the heads (not in the paper).",
    )
    stages: tuple[Text, ...] | None = Field(
        None,
        max_length=BLOCKS,
        description="Modules of the classifier's network whose outputs are appended after the four "
        "blocks, the last again where they are fewer; null finds where the spatial size changes, "
        "an empty list appends none.",
    )
    threshold: Probability = Field(
        0.5, description="Sigmoid output of the consulted head above which a sample is rejected."
    )
    head: Literal["clean", "denoised"] = Field(
        "clean",
        description="Head that learns from a sample: that of the class of the clean image (paper), "
        "or of the denoised one, which is consulted afterwards.",
    )
    noise_draws: Count = Field(
        20, description="Noise samples T of each image in an epoch (paper: 20)."
    )
    batch_size: BatchSize = Field(128, description="Samples a step (not in the paper).")
    epochs: Count = Field(20, description="Epochs (paper: 20).")
    adam_epochs: CountOrZero = Field(5, description="Epochs of Adam before SGD (paper: 5).")
    adam_learning_rate: Positive = Field(1e-4, description="Of Adam (paper: 1e-4).")
    learning_rate: Positive = Field(1e-3, description="Initial, of SGD (paper: 1e-3).")
    learning_rate_drop_every: Count = Field(
        5, description="Epochs of SGD between drops of its learning rate (paper: 5)."
    )
    learning_rate_drop_factor: float = Field(
        0.1, gt=0, le=1, description="Factor of a drop (paper: 0.1)."
    )
    weight_decay: NonNegative = Field(0.0, description="L2 weight decay (not in the paper).")
    augmentation: AugmentationSettings = Field(
        AugmentationSettings(policy="none"),
        description="Of the clean images before noise (not in the paper: none).",
    )
    seed: Seed = Field(0, description="Seed of initialisation, order and noise.")

    @model_validator(mode="after")
    def _different_stages(self) -> Self:
        if self.stages is not None and len(set(self.stages)) < len(self.stages):
            raise ValueError(f"stages must differ, but are {', '.join(self.stages)}")
        return self
