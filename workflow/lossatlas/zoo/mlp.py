"""A multilayer perceptron."""

from itertools import pairwise

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus, "gelu": nn.GELU}


def mlp(
    inputs: int = 3072, hidden: tuple[int, ...] = (64, 64), classes: int = 10, activation: str = "relu"
) -> nn.Module:
    """Return dense layers inputs -> hidden[0] -> ... -> classes; inputs of any shape are flattened."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
