"""Sources of a denoiser, one function for each form of `denoiser.source`."""

import inspect
import pkgutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from decrop.classifiers.program import ExportedNetwork
from decrop.classifiers.program_archive import program_bytes
from decrop.classifiers.weights import built_with_weights, load_weights
from decrop.config import DenoiserSettings
from decrop.config.denoiser import DENOISER_SOURCES
from decrop.denoisers.adapted import AdaptedDenoiser, bare
from decrop.errors import InputError
from decrop.files import write_bytes
from decrop.networks.conditional import told_sigma
from decrop.networks.imported import build_by_factory, called, import_extra
from decrop.networks.registry import build_denoiser
from decrop.wording import counted

# Of a denoiser that is a program, in the folder of a trial or a bundle.
PROGRAM = "denoiser_program.pt2"
_HERE = Path()


@dataclass(frozen=True)
class LocatedDenoiser:
    """Where a denoiser's parts are.

    Attributes:
        settings: by which its network is built; a relative file is in `folder`.
        weights: file of its weights; None where they are random or in a program.
        folder: of its files.
    """

    settings: DenoiserSettings
    weights: Path | None
    folder: Path = _HERE


@dataclass(frozen=True)
class OpenedDenoiser:
    """A denoiser as its training starts.

    Attributes:
        network: noisy images [B, C, H, W] to images of the same shape, told the trial's sigma.
        settings: by which it is built anew from its weights and the files of `store_program`,
            without the paths of this machine.
    """

    network: nn.Module
    settings: DenoiserSettings
    given: DenoiserSettings


def open_denoiser(
    settings: DenoiserSettings, *, image_channels: int, sigma: float
) -> OpenedDenoiser:
    """Build a denoiser with the weights that its settings name; random ones are torch's next.

    Runs code that the settings name, so they must be the user's own.

    Args:
        sigma: standard deviation of the noise that it is told, in [0,1] pixels.
    """
    located = locate(settings)
    network = _with_weights(located, image_channels, setting="denoiser.weights")
    return OpenedDenoiser(told_sigma(network, sigma), portable(located.settings), settings)


def stored_denoiser(
    settings: DenoiserSettings,
    weights: Path,
    *,
    image_channels: int,
    sigma: float,
    trust_code: bool = False,
) -> nn.Module:
    """Build a denoiser with the weights in a folder of a trial or a bundle, in eval mode.

    Args:
        settings: portable ones, as `OpenedDenoiser` has them.
        weights: safetensors file; a program lies beside it.
        trust_code: whether code of other packages may be imported by the name in the settings.
    """
    form = settings.form
    if form.imports_code and not trust_code:
        raise InputError(
            f"{weights.parent}: the denoiser is built by {settings.source}, code that is not "
            "imported by a name in a file; allow it with trust_code=True or --trust-code if you "
            "trust who made the folder."
        )
    if form.locate:
        raise InputError(
            f"{weights.parent}: denoiser.source = {settings.source!r}: a stored denoiser names no "
            "other folder; export it anew."
        )
    located = LocatedDenoiser(settings, weights, weights.parent)
    return told_sigma(_with_weights(located, image_channels, setting=None), sigma).eval()


def store_program(denoiser: nn.Module, folder: Path) -> None:
    """Write the program that a denoiser is, if it is one."""
    network = bare(denoiser)
    if isinstance(network, ExportedNetwork):
        write_bytes(folder / PROGRAM, network.program)


def portable(settings: DenoiserSettings) -> DenoiserSettings:
    """Return settings without paths: the file of weights keeps its name, which tells its origin."""
    changes: dict[str, str | None] = {"weights": settings.weight_file}
    if settings.form.name == "program":
        changes["source"] = PROGRAM
    return settings.model_copy(update=changes)


def locate(settings: DenoiserSettings) -> LocatedDenoiser:
    """Find the parts of a denoiser in folders and on the hub."""
    finder = settings.form.locate
    if finder:
        located: LocatedDenoiser = pkgutil.resolve_name(finder)(settings)
        return located
    return LocatedDenoiser(settings, None if settings.weights is None else Path(settings.weights))


def _with_weights(
    located: LocatedDenoiser, image_channels: int, *, setting: str | None
) -> nn.Module:
    settings, weights = located.settings, located.weights
    build = partial(
        DENOISER_SOURCES.build, settings.form.name, settings, image_channels, located.folder
    )
    if weights is None:
        denoiser: nn.Module = build()
        return denoiser
    if settings.form.name in ("factory", "program"):
        # Their size is not stated, and code of others may not run on `meta`.
        denoiser = build()
        load_weights(bare(denoiser), weights, architecture=settings.source, setting=setting)
        return denoiser
    found: list[nn.Module] = []

    def network() -> nn.Module:
        found.append(build())
        return bare(found[-1])

    built_with_weights(network, weights, architecture=settings.source, setting=setting)
    return found[-1]


def registered_denoiser(settings: DenoiserSettings, image_channels: int, _: Path) -> nn.Module:
    """Build a registered network."""
    return build_denoiser(settings, image_channels=image_channels)


def factory_denoiser(settings: DenoiserSettings, image_channels: int, _: Path) -> nn.Module:
    """Import and call `package.module:function`."""
    network = build_by_factory(settings.source, settings.arguments, group="denoiser")
    return AdaptedDenoiser(network, settings.contract)


def program_denoiser(settings: DenoiserSettings, image_channels: int, folder: Path) -> nn.Module:
    """Load a program of torch.export."""
    blamed = f"denoiser.source: {settings.source}"
    if settings.contract.takes == "images_and_sigma":
        raise InputError(
            f"{blamed}: denoiser.contract.takes = 'images_and_sigma': a program must take images "
            "alone; export it with sigma inside."
        )
    path = folder / settings.source
    network = ExportedNetwork(program_bytes(path, blamed), None, blamed=blamed)
    if network.image_shape[0] not in (None, image_channels):
        raise InputError(
            f"{blamed} takes images of {counted(network.image_shape[0], 'channel')}; those of the "
            f"data have {image_channels}."
        )
    # Programs are read to be protected, with weights that stay.
    for weight in network.parameters():
        weight.requires_grad_(weight.is_floating_point())
    return AdaptedDenoiser(network, settings.contract)


def deepinv_denoiser(settings: DenoiserSettings, image_channels: int, _: Path) -> nn.Module:
    """Build a denoiser of deepinv without weights."""
    name = settings.source.partition("/")[2]
    deepinv = import_extra("deepinv", f"denoiser.source: {settings.source}")
    known = {
        found: made
        for found, made in vars(deepinv.models).items()
        if isinstance(made, type) and issubclass(made, nn.Module)
    }
    if name not in known:
        raise InputError(
            f"denoiser.source: {settings.source} is not a network there; there are "
            f"{', '.join(sorted(known))}."
        )
    if "pretrained" in settings.arguments:
        raise InputError(
            "denoiser.arguments: pretrained would download weights, which are pickles; give a "
            "safetensors file of them as denoiser.weights."
        )
    given = {
        "in_channels": image_channels,
        "out_channels": image_channels,
        "in_chans": image_channels,
        "pretrained": None,
    }
    # They differ in which of these they take.
    taken = inspect.signature(known[name]).parameters
    network = called(
        known[name],
        {**{key: value for key, value in given.items() if key in taken}, **settings.arguments},
        settings.source,
        group="denoiser",
    )
    return AdaptedDenoiser(network, settings.contract)


def unlocated(settings: DenoiserSettings, image_channels: int, _: Path) -> nn.Module:
    """Refuse to build what has to be found first (`locate`)."""
    raise InputError(f"denoiser.source: {settings.source} is in no folder that can be read.")


def located_in_folder(settings: DenoiserSettings) -> LocatedDenoiser:
    """Find the denoiser of a bundle, or the model of diffusers in a folder."""
    folder = Path(settings.source).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"denoiser.source: there is no folder {settings.source}; give one of a bundle or of a "
            "model of diffusers, or another source."
        )
    if (folder / "checksums.json").exists():
        located: LocatedDenoiser = pkgutil.resolve_name("decrop.bundle.load:located_in_bundle")(
            settings, folder
        )
        return located
    from decrop.denoisers.diffusion import located_model

    return located_model(settings, folder)
