"""The settings of pretraining the denoiser on generated images."""

from typing import Literal

from pydantic import Field

from decrop.config.settings import BatchSize, Count, Positive, Settings


class PriorSettings(Settings):
    """Pretraining of the denoiser on generated images, before any image of the data is used."""

    kind: Literal["none", "dead_leaves"] = Field(
        "none",
        description="none starts from random weights (paper); dead_leaves pretrains on random "
        "overlapping shapes, with mean squared error.",
    )
    steps: Count = Field(1000, description="Steps of pretraining.")
    batch_size: BatchSize = Field(100, description="Images a step, each used once.")
    learning_rate: Positive = Field(2e-3, description="Peak of the one-cycle schedule (Adam).")
