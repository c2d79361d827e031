"""Keras twins of the built-in networks: the same functions of the same weights, in the order that ``convert`` expects.

They take images as (32, 32, 3). What differs between the frameworks is spelled out: padding at stride 2 is one pixel on
every side, BatchNorm has PyTorch's epsilon and momentum, images are flattened channel by channel, and initial weights
have the distributions of PyTorch's.
"""

from collections.abc import Callable


def builders() -> dict[str, Callable]:
    """Return the builders of all built-in Keras models by name."""
    from lossatlas.zoo.keras.plain import lenet, mlp, vgg9, vgg11
    from lossatlas.zoo.keras.resnet import resnet

    named: dict[str, Callable] = {"lenet": lenet, "mlp": mlp, "vgg9": vgg9, "vgg11": vgg11}
    for depth in (20, 32, 56, 110):
        named[f"resnet{depth}"] = resnet(depth)
        named[f"resnet{depth}-noshort"] = resnet(depth, shortcut=False)
    return named
