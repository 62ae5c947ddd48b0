"""The domain discriminator and the gradient reversal in front of it."""

from typing import Any

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """One score a sample: clean (positive) or denoised (negative) features [B, F] -> [B].

    An MLP with one hidden layer (DE-CROP, supplement, section 4), with BatchNorm as published. The
    score is the logit of clean. With two outputs, as published, it is their difference, whose
    logistic loss is the negative log-likelihood of their softmax.
    """

    def __init__(self, *, features: int, hidden_units: int, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden_units),
            nn.BatchNorm1d(hidden_units),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_units, outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return scores [B]."""
        logits: Tensor = self.layers(features)
        clean, *denoised = logits.unbind(1)
        return clean - denoised[0] if denoised else clean


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.scale, None


def reverse_gradient(values: Tensor, scale: float) -> Tensor:
    """Return `values` unchanged; in the backward pass multiply the gradient by -`scale`.

    Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015, section 3.
    """
    reversed_: Tensor = _ReverseGradient.apply(values, scale)  # type: ignore[no-untyped-call]
    return reversed_
