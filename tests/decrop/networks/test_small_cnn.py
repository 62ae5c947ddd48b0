import pytest
import torch

from decrop.networks.small_cnn import SmallCNN


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (9, 11)])
def test_logits_are_linear_in_64_pooled_features(height: int, width: int) -> None:
    network = SmallCNN(image_channels=2, class_count=7).eval()
    images = torch.rand(3, 2, height, width)
    pooled = network.maps(images).mean((2, 3))
    assert pooled.shape == (3, 64)
    torch.testing.assert_close(network(images), pooled @ network.fc.weight.T + network.fc.bias)
    assert network(images).shape == (3, 7)
