"""The settings of the denoiser: registered networks, the forms of `denoiser.source`, contract."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from decrop.config.components import (
    FACTORY,
    REGISTERED,
    Component,
    SourceComponent,
    Table,
    form_of,
)
from decrop.config.settings import FreeMapping, Settings, Text


@dataclass(frozen=True)
class DenoiserComponent(Component):
    """A network that decrop brings.

    Attributes:
        made_for: lowest and highest sigma that the published weights were trained for, in [0,1]
            pixels; None where there are none.
    """

    made_for: tuple[float, float] | None = None


# Builders take the settings and the number of channels of images, and return a module.
DENOISERS = Table(
    DenoiserComponent("dncnn", "DnCNN", "decrop.networks.dncnn:dncnn", "Zhang et al. 2017"),
    DenoiserComponent(
        "dncnn_wide",
        "DnCNN of twice as many channels",
        "decrop.networks.dncnn:dncnn_wide",
        "Salman et al. 2020",
    ),
    DenoiserComponent("memnet", "MemNet", "decrop.networks.memnet:memnet", "Tai et al. 2017"),
    DenoiserComponent(
        "unet",
        "a U-Net of DRUNet's shape; with 64 channels as costly as DnCNN of 17 layers, with 32 a "
        "quarter of that",
        "decrop.networks.unet:unet",
        "Zhang et al. 2021",
    ),
    DenoiserComponent(
        "ffdnet",
        "FFDNet at its published sizes, told sigma; published weights load as they are",
        "decrop.networks.ffdnet:ffdnet",
        "Zhang et al. 2018",
        made_for=(0.0, 75 / 255),
    ),
    DenoiserComponent(
        "drunet",
        "DRUNet at its published size, told sigma; published weights load as they are",
        "decrop.networks.drunet:drunet",
        "Zhang et al. 2021",
        made_for=(0.0, 50 / 255),
    ),
    DenoiserComponent(
        "none",
        "no denoiser, for a trial that trains the classifier itself (classifier.training) and "
        "certifies it alone",
        "decrop.networks.registry:no_denoiser",
    ),
)


@dataclass(frozen=True)
class DenoiserSourceComponent(SourceComponent):
    """A form of `denoiser.source`.

    Attributes:
        locate: what finds settings and weights in files or on a hub, as `package.module:name`;
            empty where the settings say all.
    """

    locate: str = ""


# Of two forms that a source has, the last counts. Builders take the denoiser's settings, the number
# of channels and the folder that a relative file lies in, and return a module without the weights
# that the settings name.
DENOISER_SOURCES = Table(
    DenoiserSourceComponent(
        REGISTERED,
        "a registered network, from random weights or from denoiser.weights",
        "decrop.denoisers.sources:registered_denoiser",
    ),
    DenoiserSourceComponent(
        "folder",
        "a bundle, to go on from its denoiser; or a diffusion model of diffusers, which denoises "
        "in one step",
        "decrop.denoisers.sources:unlocated",
        form="a FOLDER with a / in its path",
        pattern=r"(?s:.*/.*|\.{1,2})",
        has_weights=True,
        locate="decrop.denoisers.sources:located_in_folder",
    ),
    DenoiserSourceComponent(
        "factory",
        "a function of yours that returns a network",
        "decrop.denoisers.sources:factory_denoiser",
        form="package.module:function",
        pattern=FACTORY,
        imports_code=True,
        takes_arguments=True,
    ),
    DenoiserSourceComponent(
        "program",
        "a program of torch.export",
        "decrop.denoisers.sources:program_denoiser",
        form="FILE.pt2",
        pattern=r"(?s:.*)\.pt2",
        has_weights=True,
    ),
    DenoiserSourceComponent(
        "deepinv",
        "a denoiser of deepinv, with weights of yours",
        "decrop.denoisers.sources:deepinv_denoiser",
        "Tachella et al. 2025",
        form="deepinv/NAME",
        pattern=r"deepinv/\w+",
        imports_code=True,
        takes_arguments=True,
    ),
    DenoiserSourceComponent(
        "diffusers",
        "a network of diffusers by its class, with its configuration and noise schedule as "
        "arguments, and weights of yours; it denoises in one step",
        "decrop.denoisers.diffusion:diffusers_denoiser",
        "Carlini et al. 2023",
        form="diffusers/CLASS",
        pattern=r"diffusers/\w+",
        imports_code=True,
        takes_arguments=True,
    ),
    DenoiserSourceComponent(
        "hub",
        "a diffusion model of the Hugging Face hub, which denoises in one step",
        "decrop.denoisers.sources:unlocated",
        "Carlini et al. 2023",
        form="diffusers/ORGANISATION/NAME",
        pattern=r"diffusers/[\w.-]+/[\w.-]+",
        imports_code=True,
        has_weights=True,
        locate="decrop.denoisers.diffusion:located_on_hub",
    ),
)


_SigmaOrZero = Annotated[float, Field(ge=0, le=10)]


class DenoiserContract(Settings):
    """How a denoiser that decrop does not bring takes and returns images."""

    takes: Literal["auto", "images", "images_and_sigma"] = Field(
        "auto",
        description="Whether it is called with noisy images alone, or with them and sigma [B], the "
        "standard deviation of each image's noise in its own units; auto: as its forward asks.",
    )
    value_range: Literal["zero_to_one", "minus_one_to_one"] = Field(
        "zero_to_one",
        description="Pixels of its images, [0,1] or [-1,1]; in the latter sigma is twice as large.",
    )
    returns: Literal["image", "noise"] = Field(
        "image", description="Whether it returns the denoised image or the noise."
    )
    size_multiple: int = Field(
        1,
        ge=1,
        le=256,
        description="Images are padded to heights and widths that are multiples of it, and cropped "
        "after.",
    )
    sigma_range: tuple[_SigmaOrZero, _SigmaOrZero] | None = Field(
        None,
        description="Lowest and highest sigma that it was trained for, in [0,1] pixels; beyond, "
        "a warning says so.",
    )

    @field_validator("sigma_range")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("must be two numbers, the lower one first")
        return value


class DenoiserSettings(Settings):
    """The denoiser in front of the classifier."""

    source: Text = Field(
        "dncnn",
        description=f"{DENOISERS.help}. Or one of another origin: package.module:function, which "
        "returns a torch.nn.Module; FILE.pt2, a program of torch.export; a FOLDER (with a / in its "
        "path) of a bundle, or of a diffusion model of diffusers; diffusers/ORGANISATION/NAME of "
        "the Hugging Face hub; deepinv/NAME.",
    )
    arguments: FreeMapping = Field(
        {}, description="Arguments of the function, or of the network of deepinv."
    )
    weights: Text | None = Field(
        None,
        description="safetensors file of the weights that it starts from; random ones if not "
        "given. Programs, bundles and diffusion models have their own.",
    )
    contract: DenoiserContract = DenoiserContract()
    pretrained_on: Text | None = Field(
        None,
        description="Of a denoiser that is trained already: the images it has seen, in words, for "
        "model card and leaderboard.",
    )
    mirrored: bool = Field(
        False,
        description="Whether logits are averaged over each noisy image and its mirror image, both "
        "denoised (test-time augmentation; an ensemble, Horvath et al. 2022): larger radii where "
        "mirror images are of the same class, at twice the time of a sample. Training does not "
        "change.",
        # Bundles and trials without it are read as before.
        exclude_if=lambda mirrored: not mirrored,
    )
    depth: int = Field(
        17,
        ge=3,
        le=64,
        description="Convolution layers of dncnn and dncnn_wide (paper: 17); all others have "
        "theirs whatever stands here.",
    )
    channels: int = Field(
        64,
        ge=4,
        le=512,
        description="Hidden channels (paper: 64); dncnn_wide has twice as many (paper: 128), unet "
        "twice and four times as many at its lower resolutions; ffdnet and drunet have theirs.",
    )

    @field_validator("source")
    @classmethod
    def _has_a_form(cls, source: str) -> str:
        form_of(source, tuple(DENOISERS), DENOISER_SOURCES)
        return source

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        form = self.form
        if self.arguments and not form.takes_arguments:
            raise ValueError(f"arguments are not for source {self.source!r}; drop them")
        if self.weights is not None and (form.has_weights or self.source == "none"):
            raise ValueError(f"weights are not for source {self.source!r}; drop them")
        if form.name == REGISTERED and self.contract != DenoiserContract():
            raise ValueError(f"contract is not for source {self.source!r}, whose own is known")
        if self.pretrained_on is not None and not self.starts_trained:
            raise ValueError(
                f"pretrained_on is not for source {self.source!r}, which starts from random "
                "weights; drop it, or give weights"
            )
        if self.mirrored and self.source == "none":
            raise ValueError("mirrored is not for source 'none'; drop it")
        return self

    @property
    def form(self) -> DenoiserSourceComponent:
        """The form of its source."""
        return DENOISER_SOURCES[form_of(self.source, tuple(DENOISERS), DENOISER_SOURCES)]

    @property
    def starts_trained(self) -> bool:
        """Whether it may have seen other images than those of the trial before its training."""
        form = self.form
        return self.weights is not None or form.has_weights or form.name == "factory"

    @property
    def made_for(self) -> tuple[float, float] | None:
        """Lowest and highest sigma that it was trained for before, in [0,1] pixels, if known."""
        if self.form.name != REGISTERED:
            return self.contract.sigma_range
        return DENOISERS[self.source].made_for if self.starts_trained else None

    @property
    def pretraining(self) -> str | None:
        """What it has seen before its training, in words; None where it starts at random."""
        if not self.starts_trained:
            return None
        named = self.source if self.weights is None else f"{self.source} with {self.weight_file}"
        return f"{named}, trained before on {self.pretrained_on or 'images that are not stated'}"

    @property
    def origin(self) -> tuple[Any, ...]:
        """What it starts from; None of a random one but whether it is one."""
        if not self.starts_trained:
            return ("none" if self.source == "none" else REGISTERED,)
        return self.source, self.arguments, self.weights, self.contract

    @property
    def weight_file(self) -> str | None:
        """Name of the file of weights, without its folder."""
        return None if self.weights is None else PurePath(self.weights).name
