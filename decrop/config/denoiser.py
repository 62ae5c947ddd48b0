"""The settings of the denoiser's network."""

from typing import Annotated

from pydantic import Field

from decrop.config.components import Component, Table
from decrop.config.settings import Settings

# Builders take the settings and the number of channels of images, and return a module.
DENOISERS = Table(
    Component("dncnn", "DnCNN", "decrop.networks.dncnn:dncnn", "Zhang et al. 2017"),
    Component(
        "dncnn_wide",
        "DnCNN of twice as many channels",
        "decrop.networks.dncnn:dncnn_wide",
        "Salman et al. 2020",
    ),
    Component("memnet", "MemNet", "decrop.networks.memnet:memnet", "Tai et al. 2017"),
    Component(
        "unet",
        "a U-Net of DRUNet's shape, about as costly as DnCNN of 17 layers",
        "decrop.networks.unet:unet",
        "Zhang et al. 2021",
    ),
    Component(
        "none",
        "no denoiser, for a trial that trains the classifier itself (classifier.training) and "
        "certifies it alone",
        "decrop.networks.registry:no_denoiser",
    ),
)
DenoiserArchitecture = Annotated[str, DENOISERS]


class DenoiserSettings(Settings):
    """The denoiser in front of the classifier."""

    architecture: DenoiserArchitecture = Field(
        "dncnn", description=f"Registered network. {DENOISERS.help}."
    )
    depth: int = Field(
        17,
        ge=3,
        le=64,
        description="Convolution layers of dncnn and dncnn_wide (paper: 17); memnet (41) and unet "
        "(20) have theirs whatever stands here.",
    )
    channels: int = Field(
        64,
        ge=4,
        le=512,
        description="Hidden channels (paper: 64); dncnn_wide has twice as many (paper: 128), unet "
        "twice and four times as many at its lower resolutions.",
    )
