"""Denoisers of other origin, called as their contract says."""

import inspect
from abc import abstractmethod

from torch import Tensor, nn

from decrop.config import DenoiserContract, Settings
from decrop.files import sha256_of_json, sha256_of_tensors
from decrop.networks.conditional import SigmaConditional
from decrop.networks.identity import network_identity, remember_settings


class WrappedDenoiser(SigmaConditional):
    """A network of another origin inside a module that takes and returns [0,1] pixels.

    Attributes:
        network: whose weights are stored, by its own names.
    """

    network: nn.Module

    @property
    @abstractmethod
    def called_by(self) -> Settings:
        """How the network is called."""

    def content_hash(self) -> str:
        """Hash what it computes, but for the sigma that it is told."""
        return sha256_of_json(
            [network_identity(self.network), self.called_by.model_dump(mode="json")]
        )


class AdaptedDenoiser(WrappedDenoiser):
    """A network called by a contract.

    Args:
        network: noisy images, and sigma [B] where it takes it, to images or noise of their shape.
        contract: how it takes and returns images.
    """

    def __init__(self, network: nn.Module, contract: DenoiserContract) -> None:
        super().__init__()
        remember_settings(network)
        self.network = network
        self.contract = contract
        self.size_multiple = contract.size_multiple
        self.takes_sigma = contract.takes == "images_and_sigma" or (
            contract.takes == "auto" and _asks_for_two(network)
        )

    @property
    def called_by(self) -> DenoiserContract:
        return self.contract

    def denoised(self, images: Tensor, sigma: Tensor) -> Tensor:
        symmetric = self.contract.value_range == "minus_one_to_one"
        given, level = (2 * images - 1, 2 * sigma) if symmetric else (images, sigma)
        found: Tensor = (
            self.network(given, level.to(given.dtype)) if self.takes_sigma else self.network(given)
        )
        if self.contract.returns == "noise":
            found = given - found
        return (found + 1) / 2 if symmetric else found


def _asks_for_two(network: nn.Module) -> bool:
    """Tell whether a network's forward has a second parameter without a default."""
    try:
        parameters = list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    # One without a default may be called sigma and have one all the same, as in deepinv.
    named = len(parameters) > 1 and parameters[1].name in ("sigma", "noise_level")
    return len(required) > 1 or named


def content_hash_of(denoiser: nn.Module) -> str:
    """Hash what a denoiser computes: of networks that decrop brings the weights say all."""
    if isinstance(denoiser, WrappedDenoiser):
        return denoiser.content_hash()
    return sha256_of_tensors(denoiser.state_dict())


def bare(denoiser: nn.Module) -> nn.Module:
    """Return the network whose weights are stored: what is wrapped, or the denoiser itself."""
    return denoiser.network if isinstance(denoiser, WrappedDenoiser) else denoiser
