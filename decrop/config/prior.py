"""The settings of pretraining the denoiser on generated images."""

from typing import Annotated

from pydantic import Field

from decrop.config.components import Component, Table
from decrop.config.settings import BatchSize, Count, Positive, Settings, Sigma, SigmaRange

# Builders take a shape [B, C, H, W], a NumPy generator and a device; they return images of it,
# float32 in [0,1].
PRIORS = Table(
    Component("none", "random weights, as in the paper", "decrop.training.prior:no_images"),
    Component(
        "dead_leaves",
        "random shapes that cover each other",
        "decrop.synthesis.dead_leaves:dead_leaves",
        "Baradad et al. 2021",
    ),
    Component(
        "textured_leaves",
        "dead leaves, larger ones too, with textures, perspective and depth of field",
        "decrop.synthesis.textured_leaves:textured_leaves",
        "Achddou et al. 2023",
    ),
)
PriorKind = Annotated[str, PRIORS]


class PriorSettings(Settings):
    """Pretraining of the denoiser on generated images, before any image of the data is used."""

    kind: PriorKind = Field(
        "none",
        description=f"Images to pretrain on with mean squared error. {PRIORS.help}.",
    )
    steps: Count = Field(1000, description="Steps of pretraining.")
    batch_size: BatchSize = Field(100, description="Images a step, each used once.")
    learning_rate: Positive = Field(2e-3, description="Peak of the one-cycle schedule (Adam).")
    sigma: Sigma | SigmaRange | None = Field(
        None,
        description="Standard deviation of the noise in pretraining, in [0,1] pixels: a number, "
        "or [lowest, highest] of the one that each image gets at random; the sigma that is "
        "certified where not given. A denoiser that takes sigma is told it.",
    )
