"""A classifier behind a denoiser: the base classifier of the smoothed classifier."""

import torch
from torch import Tensor, nn


class DenoisedClassifier(nn.Module):
    """A denoiser and a classifier in one, noisy images [B, C, H, W] to logits [B, K].

    Attributes:
        mirrored: whether the logits are means over an image and its mirror image, each denoised.
            Noise that misleads one of both misleads their mean less, as that of an ensemble
            (Horváth et al., ICLR 2022); it is a function of the noisy image like any other, so
            Cohen et al.'s theorem 1 holds for it.
    """

    # Its parts can be folded one by one.
    calls_children_whole = True

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, *, mirrored: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier
        self.mirrored = mirrored

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of noisy images."""
        if self.mirrored:
            # In one batch, so that each layer is called once: `fold_batch_norms` asks for that.
            images = torch.cat([images, images.flip(-1)])
        logits: Tensor = self.classifier(self.denoiser(images))
        if self.mirrored:
            one, other = logits.chunk(2)
            logits = (one + other) / 2
        return logits

    def extra_repr(self) -> str:
        """State what is no part of it but decides what it computes."""
        return f"mirrored={self.mirrored}"
