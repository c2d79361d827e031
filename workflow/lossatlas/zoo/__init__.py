"""Built-in networks by name, each ``builder(**kwargs) -> torch.nn.Module`` for 3 x 32 x 32 images."""

from collections.abc import Callable


def builder(name: str) -> Callable:
    """Return the builder of a built-in network."""
    return builders()[name]


def builders() -> dict[str, Callable]:
    """Return the builders of all built-in networks by name; the schema lists their keyword arguments."""
    from lossatlas.zoo.lenet import lenet
    from lossatlas.zoo.mlp import mlp
    from lossatlas.zoo.mobilenet import mobilenet_v2
    from lossatlas.zoo.resnet import resnet, resnet50
    from lossatlas.zoo.vgg import vgg9, vgg11

    named: dict[str, Callable] = {"lenet": lenet, "mlp": mlp, "vgg9": vgg9, "vgg11": vgg11}
    for depth in (20, 32, 56, 110):
        named[f"resnet{depth}"] = resnet(depth)
        named[f"resnet{depth}-noshort"] = resnet(depth, shortcut=False)
    return {**named, "resnet50": resnet50, "mobilenet-v2": mobilenet_v2}


def keras_builder(name: str) -> Callable:
    """Return the builder of a built-in network's Keras twin, ``builder(**kwargs) -> keras.Model``."""
    from lossatlas.zoo.keras import builders

    return builders()[name]
