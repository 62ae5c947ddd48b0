"""Diffusion models as denoisers in one step (Carlini et al. 2023)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from decrop.config import DenoiserSettings, Settings
from decrop.denoisers.adapted import WrappedDenoiser
from decrop.denoisers.sources import LocatedDenoiser
from decrop.documents import validated
from decrop.errors import InputError, one_line
from decrop.files import MOST_TEXT_BYTES, read_json
from decrop.networks.imported import called, import_extra

# The one network of diffusers that takes images and a timestep, and nothing else.
_NETWORK = "UNet2DModel"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_HUB_FILES = ["*.json", f"*{_WEIGHTS}"]
# Of a configuration, far beyond those that are published, so that a stranger's is refused before
# a network of it is made.
_MOST_BLOCKS, _MOST_LAYERS, _LARGEST = 16, 32, 65_536
_Beta = Annotated[float, Field(gt=0, lt=1)]


class Schedule(Settings):
    """The noise schedule of a diffusion model, by diffusers' names."""

    num_train_timesteps: int = Field(1000, ge=1, le=100_000)
    beta_start: _Beta = 0.0001
    beta_end: _Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: tuple[_Beta, ...] | None = Field(None, max_length=100_000)
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample: bool = True

    def noise_levels(self) -> Tensor:
        """Return sqrt(1 - a) / sqrt(a) of every timestep, a the product of the alphas, [T].

        It is the standard deviation of the noise in a noisy image that is scaled so that the image
        itself has its own range, [-1,1].
        """
        kept = self._kept()
        return ((1 - kept) / kept).sqrt()

    def _kept(self) -> Tensor:
        diffusers = import_extra("diffusers", "denoiser.source: a diffusion model")
        fields = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"}
        kept: Tensor = diffusers.DDPMScheduler(**self.model_dump(include=fields)).alphas_cumprod
        return kept.double()


class OneStepDenoiser(WrappedDenoiser):
    """A diffusion model that denoises in one step, at the timestep of the image's noise.

    Noisy pixels x of [0,1] are (2 x - 1) in the model's units, and their noise 2 sigma. The
    timestep t is the one whose noise level sqrt(1 - a_t) / sqrt(a_t) is nearest to that; the model
    is given sqrt(a_t) (2 x - 1), as if the forward process had made it, and its prediction of the
    clean image is returned. The noise is that of sigma, whatever t is.

    Carlini et al., (Certified!!) Adversarial Robustness for Free!, ICLR 2023, section 3, algorithm
    1; their published code adds the noise of t instead, a little more than sigma.

    Args:
        network: UNet2DModel of diffusers.
    """

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        # Not a buffer, which bf16 would round.
        self.noise_levels = schedule.noise_levels().float()
        config: Any = network.config
        self.size_multiple = 2 ** (len(config.block_out_channels) - 1)

    @property
    def called_by(self) -> Schedule:
        return self.schedule

    def timesteps(self, sigma: Tensor) -> Tensor:
        """Return the timestep of each sigma in [0,1] pixels, int64 [B]."""
        levels = self.noise_levels.to(sigma.device).log()
        distance = (levels[None] - (2 * sigma.float()).log()[:, None]).abs()
        return distance.argmin(dim=1)

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        steps = self.timesteps(sigma)
        level = self.noise_levels.to(images.device)[steps][:, None, None, None]
        # Of the clean image and of the noise, in what the model is given.
        image_share = (1 / (1 + level.square()).sqrt()).to(images.dtype)
        noise_share = (level / (1 + level.square()).sqrt()).to(images.dtype)
        given = image_share * (2 * images - 1)
        found: Tensor = self.network(given, steps, return_dict=False)[0]
        # Some predict a variance, too.
        found = found[:, : images.shape[1]]
        if self.schedule.prediction_type == "epsilon":
            found = (given - noise_share * found) / image_share
        elif self.schedule.prediction_type == "v_prediction":
            found = image_share * given - noise_share * found
        if self.schedule.clip_sample:
            found = found.clamp(-1, 1)
        return (found + 1) / 2


def diffusers_denoiser(settings: DenoiserSettings, image_channels: int, _: Path) -> nn.Module:
    """Build a network of diffusers from its configuration and noise schedule."""
    source, arguments = settings.source, settings.arguments
    if source != f"diffusers/{_NETWORK}" or arguments.keys() != {"config", "schedule"}:
        raise InputError(
            f"denoiser.source: {source}: only diffusers/{_NETWORK} can be used, with config and "
            "schedule as denoiser.arguments; or give the folder of a model."
        )
    config, stated = arguments["config"], arguments["schedule"]
    if not isinstance(config, dict) or not isinstance(stated, dict):
        raise InputError("denoiser.arguments: config and schedule must be mappings.")
    schedule = validated(Schedule, stated, source="denoiser.arguments.schedule")
    if config.get("in_channels") != image_channels:
        raise InputError(
            f"denoiser.source: {source} takes images of {config.get('in_channels')} channels; "
            f"those of the data have {image_channels}."
        )
    _check_bounds(config)
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise InputError(
            f"denoiser.source: {source} is told the class of an image, which is what is to be "
            "found; use a model without."
        )
    diffusers = import_extra("diffusers", f"denoiser.source: {source}")
    return OneStepDenoiser(
        called(diffusers.UNet2DModel, config, source, group="denoiser"), schedule
    )


def _check_bounds(config: dict[str, Any]) -> None:
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        most = _MOST_LAYERS if name == "layers_per_block" else _LARGEST
        numbers = [v for v in values if isinstance(v, int | float)]
        if len(values) > _MOST_BLOCKS or any(abs(number) > most for number in numbers):
            raise InputError(
                f"denoiser.arguments: config.{name} must have at most {_MOST_BLOCKS} values, "
                f"up to {most:,}."
            )


def located_model(settings: DenoiserSettings, folder: Path) -> LocatedDenoiser:
    """Find configuration, schedule and weights in the folder of a model of diffusers."""
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    schedule = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    config = _mapping(network / "config.json")
    if config.get("_class_name") != _NETWORK:
        raise InputError(
            f"denoiser.source: {network} holds a {config.get('_class_name')}; only {_NETWORK} of "
            "diffusers can be used, which takes images and a timestep."
        )
    weights = network / _WEIGHTS
    if not weights.exists():
        raise InputError(
            f"denoiser.source: {network} has no {_WEIGHTS}; a .bin file is a pickle, whose reading "
            "can run any code. Convert it with save_pretrained(safe_serialization=True), where you "
            "trust it."
        )
    known = Schedule.model_fields.keys()
    stated = _mapping(schedule / "scheduler_config.json")
    arguments = {
        "config": {name: value for name, value in config.items() if not name.startswith("_")},
        "schedule": {name: value for name, value in stated.items() if name in known},
    }
    changed = {
        **settings.model_dump(),
        "source": f"diffusers/{_NETWORK}",
        "arguments": arguments,
        "weights": weights.name,
    }
    found = validated(DenoiserSettings, changed, source=f"denoiser.source: {folder}")
    return LocatedDenoiser(found, weights, folder)


def located_on_hub(settings: DenoiserSettings) -> LocatedDenoiser:
    """Download a model of diffusers from the Hugging Face hub, and find its parts."""
    from huggingface_hub import snapshot_download

    name = settings.source.partition("/")[2]
    try:
        folder = snapshot_download(name, allow_patterns=_HUB_FILES)
    except Exception as error:  # the hub's client raises errors of several libraries
        raise InputError(
            f"denoiser.source: {name} cannot be read from the Hugging Face hub "
            f"({type(error).__name__}: {one_line(str(error), 200)}); give a folder of it."
        ) from error
    return located_model(settings, Path(folder))


def _mapping(path: Path) -> dict[str, Any]:
    found = read_json(path, most_bytes=MOST_TEXT_BYTES)
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a mapping.")
    return found
