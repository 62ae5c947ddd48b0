"""A denoiser and a classifier in one, with and without the mirror images of what they are given."""

import torch
from torch import Tensor, nn

from decrop.networks.denoised import DenoisedClassifier
from decrop.networks.dncnn import DnCNN
from decrop.networks.resnet import CifarResNet
from decrop.smoothing.prepare import folded


def parts() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    denoiser = DnCNN(image_channels=3, depth=4, channels=8)
    classifier = CifarResNet(blocks=1, image_channels=3, class_count=5)
    for layer in (*denoiser.modules(), *classifier.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            layer.running_mean.uniform_(-0.2, 0.2)
    return denoiser.eval(), classifier.eval()


def images() -> Tensor:
    return torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_classifier_is_given_what_the_denoiser_returns() -> None:
    denoiser, classifier = parts()
    found = DenoisedClassifier(denoiser, classifier, mirrored=False)(images())
    assert torch.equal(found, classifier(denoiser(images())))


@torch.no_grad()
def test_mirrored_logits_are_means_over_an_image_and_its_mirror_image() -> None:
    denoiser, classifier = parts()
    network = DenoisedClassifier(denoiser, classifier, mirrored=True)
    found = network(images())
    one, other = (classifier(denoiser(given)) for given in (images(), images().flip(-1)))
    torch.testing.assert_close(found, (one + other) / 2)
    assert not torch.allclose(one, other, atol=1e-3)
    # So a mirror image has the same logits, and an image alone has those that it has beside others.
    torch.testing.assert_close(network(images().flip(-1)), found)
    torch.testing.assert_close(network(images()[:1]), found[:1])


@torch.no_grad()
def test_batch_norms_of_both_parts_are_folded() -> None:
    network = DenoisedClassifier(*parts(), mirrored=True)
    ready = folded(network)
    assert not [layer for layer in ready.modules() if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(ready(images()), network(images()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_logit_that_is_not_finite_stays_so() -> None:
    class Halves(nn.Module):
        """Infinite logits for images whose left half is bright, minus infinity for others."""

        def forward(self, images: Tensor) -> Tensor:
            left, right = images.mean((1, 2)).chunk(2, dim=1)
            return torch.inf * (left.mean(1) - right.mean(1))[:, None].repeat(1, 2)

    found = DenoisedClassifier(nn.Identity(), Halves(), mirrored=True)(images())
    assert not found.isfinite().any()
