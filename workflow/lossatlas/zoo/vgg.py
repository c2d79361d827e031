"""VGG for 32 x 32 images (Simonyan & Zisserman 2015), with few dense layers as is usual for CIFAR."""

from torch import nn

POOL = 0  # in a plan: 2 x 2 max-pooling; other numbers are channels of a 3 x 3 convolution, in units of the width


def vgg9(classes: int = 10, width: int = 64, batchnorm: bool = True) -> nn.Module:
    """Return Li et al.'s VGG-9 (2018): seven convolutions and two dense layers, 2,789,706 parameters.

    ``batchnorm: false`` leaves out the normalisation after each layer but the last.
    """
    layers = _convolutions([1, 1, POOL, 2, 2, POOL, 4, 4, 4, POOL], width, batchnorm)
    hidden = 4 * width
    normalised = [nn.BatchNorm1d(hidden)] if batchnorm else []
    dense = [nn.Flatten(), nn.Linear(hidden * 4 * 4, hidden), *normalised, nn.ReLU(), nn.Linear(hidden, classes)]
    return _initialised(nn.Sequential(*layers, *dense))


def vgg11(classes: int = 10, width: int = 64, batchnorm: bool = True) -> nn.Module:
    """Return VGG-11 (configuration A) with one dense layer, 9,231,114 parameters with BatchNorm."""
    layers = _convolutions([1, POOL, 2, POOL, 4, 4, POOL, 8, 8, POOL, 8, 8, POOL], width, batchnorm)
    return _initialised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width, classes)))


def _convolutions(plan: list[int], width: int, batchnorm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = 3
    for units in plan:
        if units == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        normalised = [nn.BatchNorm2d(units * width)] if batchnorm else []
        layers += [nn.Conv2d(before, units * width, 3, padding=1), *normalised, nn.ReLU()]
        before = units * width
    return layers


def _initialised(network: nn.Module) -> nn.Module:
    """Draw weights as He et al. (2015) do, without which the networks that have no BatchNorm hardly learn."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
