"""From the config's ``model`` and ``loss`` to a module and a function."""

import torch
from torch import nn
from torch.nn import functional

from lossatlas import rng, zoo
from lossatlas.backends.torch.losses import (
    NEXT_TOKEN,
    ClassLoss,
    Loss,
    mean_over_samples,
    mean_squares,
    recognised,
    same_shape_mean_squares,
)
from lossatlas.config import imports
from lossatlas.problem.checks import built, check_loss, network_builder

BY_NAME: dict[str, Loss] = {
    "cross-entropy": ClassLoss(functional.cross_entropy),
    "mse": mean_squares,
    "next-token": NEXT_TOKEN,
}
"""Losses that are there by name."""


def build_module(spec: dict, seed: int) -> nn.Module:
    """Build the network of ``spec`` (keys ``name`` or ``import``, ``kwargs``) with seeded initial weights.

    Raises:
        LossAtlasError: the builder fails or returns something else.
    """
    name, builder = network_builder(spec, zoo.builder)
    with torch.random.fork_rng():
        torch.manual_seed(rng.torch_seed(seed, "initial weights"))
        return built(builder, name, spec["kwargs"], nn.Module, "torch.nn.Module")


def build_loss(spec: dict) -> Loss:
    """Return the loss of ``spec``: a function (outputs, targets) -> scalar mean over the batch.

    A user's function may return one value per sample instead; the mean is taken here.
    """
    if "import" not in spec:
        return BY_NAME[spec["name"]]
    own = imports.load(spec["import"], spec["python_path"], "loss.import")
    return recognised(own) or mean_over_samples(own, f"loss.import: {spec['import']!r}")


def as_metrics(metrics: dict[str, Loss]) -> dict[str, Loss]:
    """Return the metrics that a notebook gives, with the mean taken."""
    return {name: mean_over_samples(own, f"metrics: {name!r}") for name, own in metrics.items()}


def as_loss(loss: str | Loss) -> Loss:
    """Return the loss that a notebook names, or its function with the mean taken.

    Raises:
        LossAtlasError: there is no built-in loss of that name.
    """
    check_loss(loss, (*BY_NAME,))
    if known := recognised(loss):
        return known
    if loss is functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean"):
        return same_shape_mean_squares
    if callable(loss):
        return mean_over_samples(loss, "loss: the function")
    return build_loss({"name": loss})
