"""Built-in networks by name, each ``builder(**kwargs) -> torch.nn.Module`` for 3 x 32 x 32 images."""

from collections.abc import Callable


def builder(name: str) -> Callable:
    """Return the builder of a built-in network."""
    from lossatlas.zoo.lenet import lenet
    from lossatlas.zoo.mlp import mlp
    from lossatlas.zoo.resnet import resnet20, resnet20_noshort

    return {"lenet": lenet, "mlp": mlp, "resnet20": resnet20, "resnet20-noshort": resnet20_noshort}[name]
