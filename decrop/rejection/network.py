"""Per-class rejectors on a shared backbone, behind a denoiser and a classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decrop.classifiers.feature_maps import StagedClassifier
from decrop.config import DenoiserSettings
from decrop.errors import InputError
from decrop.files import sha256_of_json, sha256_of_tensors
from decrop.networks.resnet import BasicBlock


class Rejector(nn.Module):
    """A ResNet that sees denoised images and a classifier's feature maps, with one head a class.

    Sheikholeslami et al., Denoised Smoothing with Sample Rejection, 2022, section 6: a
    ResNet-34-like backbone in its form for small images (3x3 stem, no max-pooling), after each of
    whose blocks feature maps of the classifier are appended, averaged or repeated to the same size;
    then global pooling and three linear layers, the last of which are the heads.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        class_count: int,
        feature_channels: Sequence[int],
        width: int,
        blocks: Sequence[int],
        hidden_units: int,
    ) -> None:
        """Build it with random weights.

        Args:
            class_count: K, number of heads.
            feature_channels: channels of each feature map, at most as many as blocks; the last map
                is appended again after the blocks that have none of their own. May be empty.
            width: channels of the first block; each next has twice as many.
            blocks: residual units of each block.
            hidden_units: of the first two linear layers.
        """
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList()
        last = len(feature_channels) - 1
        self._appended = [min(block, last) if last >= 0 else None for block in range(len(blocks))]
        channels = width
        for number, units in enumerate(blocks):
            own = width * 2**number
            first = BasicBlock(channels, own, 1 if number == 0 else 2)
            rest = (BasicBlock(own, own, 1) for _ in range(units - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            channels = own
            appended = self._appended[number]
            if appended is not None:
                channels += feature_channels[appended]
        self.heads = nn.Sequential(
            nn.Linear(channels, hidden_units),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_units, hidden_units),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_units, class_count),
        )

    def forward(self, denoised: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Return the logit of rejection of each head, [B, K].

        Args:
            denoised: images [B, C, H, W] in [0,1] pixels.
            features: maps [B, channels, height, width] of the classifier on these images.
        """
        maps = self.stem(denoised)
        for block, appended in zip(self.blocks, self._appended, strict=True):
            maps = block(maps)
            if appended is not None:
                resized = F.adaptive_avg_pool2d(features[appended], maps.shape[-2:])
                maps = torch.cat([maps, resized], dim=1)
        logits: Tensor = self.heads(maps.mean((2, 3)))
        return logits


class RejectingNetwork(nn.Module):
    """The base classifier with a rejection class (Sheikholeslami et al. 2022, equations 1 and 3).

    Its outcome for a noisy image is the class k of the denoised image, or R where the rejector's
    head k says so. Outcomes are logits of K + 1 classes, the last of which is R, so that whatever
    counts classes counts R too.
    """

    # Its parts can be folded one by one.
    calls_children_whole = True

    def __init__(
        self,
        denoiser: nn.Module,
        classifier: StagedClassifier,
        rejector: Rejector,
        *,
        threshold: float,
    ) -> None:
        """Put the parts together.

        Args:
            denoiser: noisy images [B, C, H, W] to images of the same shape.
            threshold: output of a head, in (0, 1), above which a sample is rejected.
        """
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier
        self.rejector = rejector
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        """Return 1 for the outcome of each image and 0 for the others, [B, K+1], last R.

        NaN where a logit of the classifier or of the rejector is not finite.
        """
        denoised = self.denoiser(images)
        logits, maps = self.classifier(denoised)
        return outcomes(logits, self.rejector(denoised, maps), threshold=self.threshold)

    def content_hash(self) -> str:
        """Hash the rejector: its weights, what it is shown and when it rejects."""
        weights = sha256_of_tensors(self.rejector.state_dict())
        return sha256_of_json([weights, self.classifier.stages, self.threshold])

    def extra_repr(self) -> str:
        """State the threshold, which decides what this computes."""
        return f"threshold={self.threshold}"


def outcomes(logits: Tensor, heads: Tensor, *, threshold: float) -> Tensor:
    """Return which of K classes or R each image is, as 0 and 1, [B, K+1]; NaN where not finite.

    Args:
        logits: of the classifier, [B, K].
        heads: of the rejector, [B, K]; the head of the predicted class is consulted.
        threshold: of the sigmoid of a head, in (0, 1).
    """
    classes = logits.argmax(dim=1)
    outcome = torch.where(is_rejected(classes, heads, threshold=threshold), heads.shape[1], classes)
    votes = F.one_hot(outcome, heads.shape[1] + 1).to(logits.dtype)
    finite = logits.isfinite().all(dim=1) & heads.isfinite().all(dim=1)
    return votes.masked_fill(~finite[:, None], torch.nan)


def is_rejected(classes: Tensor, heads: Tensor, *, threshold: float) -> Tensor:
    """Tell whether the head of an image's class rejects it, bool [B].

    Args:
        classes: int64 [B].
        heads: logits [B, K].
        threshold: of their sigmoid, in (0, 1).
    """
    consulted = heads.gather(1, classes[:, None])[:, 0]
    return consulted.float().sigmoid() > threshold


def check_one_image(denoiser: DenoiserSettings) -> None:
    """Raise InputError where logits are averaged over two images, of which one may be rejected."""
    if denoiser.mirrored:
        raise InputError(
            "denoiser.mirrored: a rejector decides about one denoised image, not about two whose "
            "logits are averaged; give a bundle without denoiser.mirrored."
        )


def check_certificate(certificate: str, *, rejecting: bool) -> None:
    """Raise InputError unless a certificate suits a network that may reject samples, or may not."""
    if rejecting and certificate != "rejection":
        raise InputError(
            f"certification.certificate = {certificate!r}: samples may be rejected here, so it "
            "must be rejection; for others certify the bundle that the rejector was added to."
        )
    if certificate == "rejection" and not rejecting:
        raise InputError(
            "certification.certificate = 'rejection': there is no rejector here; decrop rejector "
            "train adds one to a bundle."
        )
