"""LeNet-5 for colour images of 32 x 32 (LeCun et al. 1998, with ReLU and max-pooling)."""

from torch import nn


def lenet(classes: int = 10, channels: int = 3) -> nn.Module:
    """Return LeNet with 62,006 parameters for 3 x 32 x 32 images and ten classes."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
