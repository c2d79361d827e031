"""From the config's ``model`` and ``loss`` to a module and a function."""

import torch
from torch import nn
from torch.nn import functional

from lossatlas import rng, zoo
from lossatlas.backends.torch.losses import Loss, mean_over_samples, mean_squares, recognised, same_shape_mean_squares
from lossatlas.config import imports
from lossatlas.errors import LossAtlasError


def build_module(spec: dict, seed: int) -> nn.Module:
    """Build the network of ``spec`` (keys ``name`` or ``import``, ``kwargs``) with seeded initial weights.

    Raises:
        LossAtlasError: the builder fails or returns something else.
    """
    own = "import" in spec
    chosen = spec["import"] if own else spec["name"]
    build = imports.load(chosen, spec["python_path"], "model.import") if own else zoo.builder(chosen)
    with torch.random.fork_rng():
        torch.manual_seed(rng.torch_seed(seed, "initial weights"))
        try:
            module = build(**spec["kwargs"])
        except Exception as error:
            raise LossAtlasError(
                f"model: building {chosen!r} with kwargs {spec['kwargs']} failed with {type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, nn.Module):
        raise LossAtlasError(f"model.import: {chosen!r} returned {type(module).__name__}, not a torch.nn.Module")
    return module


def build_loss(spec: dict) -> Loss:
    """Return the loss of ``spec``: a function (outputs, targets) -> scalar mean over the batch.

    A user's function may return one value per sample instead; the mean is taken here.
    """
    if "import" not in spec:
        return {"cross-entropy": functional.cross_entropy, "mse": mean_squares}[spec["name"]]
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
    if known := recognised(loss):
        return known
    if isinstance(loss, type):
        raise LossAtlasError(f"loss: {loss.__name__} is a class; give an instance, {loss.__name__}()")
    if loss is functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean"):
        return same_shape_mean_squares
    if callable(loss):
        return mean_over_samples(loss, "loss: the function")
    if loss not in ("cross-entropy", "mse"):
        raise LossAtlasError(f"loss: {loss!r} is neither a function nor one of cross-entropy, mse")
    return build_loss({"name": loss})
