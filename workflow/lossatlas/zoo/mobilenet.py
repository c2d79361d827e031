"""MobileNet-V2 (Sandler et al. 2018), torchvision's."""

from torch import nn

from lossatlas.vision import torchvision


def mobilenet_v2(classes: int = 10, dropout: float = 0.2) -> nn.Module:
    """Return MobileNet-V2 with 2,236,682 parameters for ten classes, 3,504,872 for ImageNet's thousand.

    Images may be of any size. It halves them five times, so that of 32 x 32 pixels one is left before the mean.
    """
    return torchvision().models.mobilenet_v2(num_classes=classes, dropout=dropout)
