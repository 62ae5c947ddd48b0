"""AlexNet for small images, whole and halved: the target and a surrogate of the black-box case."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

_NORM_EPSILON = 1e-3
_POOLED_SIZE = 3


class AlexNet(nn.Module):
    """Five convolutions and three linear layers for 32x32 images, with BatchNorm behind each ReLU.

    The CIFAR-10 form, and the keys, of Barbalau et al., Black-Box Ripper, NeurIPS 2020, which
    DE-CROP's black-box experiment (section 5) builds on: an AlexNet and one of half its channels.
    Maps of larger images are averaged to the 3x3 that 32x32 images give; images have 15 pixels a
    side or more. 256 features, halved 128.
    """

    def __init__(self, *, image_channels: int, class_count: int, halved: bool = False) -> None:
        super().__init__()
        width1, width2, width3, hidden1, hidden2 = (
            channels // 2 if halved else channels for channels in (48, 128, 192, 512, 256)
        )
        self.conv1 = nn.Conv2d(image_channels, width1, 5, padding=2)
        self.batch_norm1 = nn.BatchNorm2d(width1, eps=_NORM_EPSILON)
        self.conv2 = nn.Conv2d(width1, width2, 5, padding=2)
        self.batch_norm2 = nn.BatchNorm2d(width2, eps=_NORM_EPSILON)
        self.conv3 = nn.Conv2d(width2, width3, 3, padding=1)
        self.batch_norm3 = nn.BatchNorm2d(width3, eps=_NORM_EPSILON)
        self.conv4 = nn.Conv2d(width3, width3, 3, padding=1)
        self.batch_norm4 = nn.BatchNorm2d(width3, eps=_NORM_EPSILON)
        self.conv5 = nn.Conv2d(width3, width2, 3, padding=1)
        self.batch_norm5 = nn.BatchNorm2d(width2, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(0.5)
        self.fc1 = nn.Linear(width2 * _POOLED_SIZE**2, hidden1)
        self.batch_norm6 = nn.BatchNorm1d(hidden1, eps=_NORM_EPSILON)
        self.fc2 = nn.Linear(hidden1, hidden2)
        self.batch_norm7 = nn.BatchNorm1d(hidden2, eps=_NORM_EPSILON)
        self.fc3 = nn.Linear(hidden2, class_count)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, class_count] of images [B, C, H, W]."""
        maps = self.batch_norm1(_pooled(normalise_response(F.relu(self.conv1(images)))))
        maps = self.batch_norm2(_pooled(normalise_response(F.relu(self.conv2(maps)))))
        maps = self.batch_norm3(F.relu(self.conv3(maps)))
        maps = self.batch_norm4(F.relu(self.conv4(maps)))
        maps = self.batch_norm5(_pooled(F.relu(self.conv5(maps))))
        features = F.adaptive_avg_pool2d(maps, _POOLED_SIZE).flatten(1)
        features = self.batch_norm6(self.dropout(F.relu(self.fc1(features))))
        features = self.batch_norm7(self.dropout(F.relu(self.fc2(features))))
        logits: Tensor = self.fc3(features)
        return logits


half_alexnet = partial(AlexNet, halved=True)


def normalise_response(maps: Tensor) -> Tensor:
    """Divide maps [B, C, H, W] by their own and the previous channel's strength.

    nn.LocalResponseNorm(2) with its default factors, which does not run in bf16 on CPUs
    (Krizhevsky, Sutskever and Hinton, NeurIPS 2012, section 3.3).
    """
    squares = maps.square()
    previous = F.pad(squares[:, :-1], (0, 0, 0, 0, 1, 0))
    return maps / (1 + 1e-4 * (squares + previous) / 2) ** 0.75


def _pooled(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 3, stride=2)
