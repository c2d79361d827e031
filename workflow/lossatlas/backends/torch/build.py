"""From the config's ``model`` and ``loss`` to a module and a function."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from lossatlas import rng, sources, zoo
from lossatlas.errors import LossAtlasError

Loss = Callable[[Tensor, Tensor], Tensor]


def build_module(spec: dict, seed: int) -> nn.Module:
    """Build the network of ``spec`` (keys ``name`` or ``import``, ``kwargs``) with seeded initial weights.

    Raises:
        LossAtlasError: the builder fails or returns something else.
    """
    own = "import" in spec
    chosen = spec["import"] if own else spec["name"]
    build = sources.load(chosen, spec["python_path"], "model.import") if own else zoo.builder(chosen)
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
        return {"cross-entropy": functional.cross_entropy, "mse": _mse}[spec["name"]]
    own = sources.load(spec["import"], spec["python_path"], "loss.import")
    return mean_over_samples(own, f"loss.import: {spec['import']!r}")


def as_metrics(metrics: dict[str, Loss]) -> dict[str, Loss]:
    """Return the metrics that a notebook gives, with the mean taken."""
    return {name: mean_over_samples(own, f"metrics: {name!r}") for name, own in metrics.items()}


def as_loss(loss: str | Loss) -> Loss:
    """Return the loss that a notebook names, or its function with the mean taken.

    Raises:
        LossAtlasError: there is no built-in loss of that name.
    """
    if loss is functional.cross_entropy:
        return loss
    if isinstance(loss, type):
        raise LossAtlasError(f"loss: {loss.__name__} is a class; give an instance, {loss.__name__}()")
    if loss is functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean"):
        return _same_shape_mse
    if callable(loss):
        return mean_over_samples(loss, "loss: the function")
    if loss not in ("cross-entropy", "mse"):
        raise LossAtlasError(f"loss: {loss!r} is neither a function nor one of cross-entropy, mse")
    return build_loss({"name": loss})


def mean_over_samples(own: Loss, who: str) -> Loss:
    """Return a user's function with the mean over samples taken, where it returns one value for each.

    Args:
        who: names the function in messages.
    """

    def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = own(outputs, targets)
        if not isinstance(value, Tensor) or value.ndim > 1:
            raise LossAtlasError(
                f"{who} must return a scalar or one value per sample, "
                f"got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
            )
        return (value if value.is_floating_point() else value.double()).mean()  # counts, and hits or misses, too

    mean_loss.own = own
    return mean_loss


def per_sample(loss: Loss, outputs: Tensor, targets: Tensor) -> Loss:
    """Return the function (outputs, targets) -> the loss of each sample, (sample,); some samples show which one works.

    A user's function that returns the mean alone is asked for one sample after the other.
    """
    if loss is functional.cross_entropy:
        return lambda o, t: functional.cross_entropy(o, t, reduction="none").reshape(len(o), -1).mean(1)
    if loss is _mse:
        return lambda o, t: (o - t.to(o.dtype).view_as(o)).square().reshape(len(o), -1).mean(1)
    own = getattr(loss, "own", loss)
    if own(outputs, targets).ndim == 1:
        return own

    def alone(output: Tensor, target: Tensor) -> Tensor:
        return loss(output[None], target[None])

    try:
        vmap(alone)(outputs, targets)
        return vmap(alone)
    except Exception:  # the function does what vmap has no rule for
        return lambda o, t: torch.stack([alone(*pair) for pair in zip(o, t, strict=True)])


def _same_shape_mse(outputs: Tensor, targets: Tensor) -> Tensor:
    # PyTorch's, where it does not broadcast, in operations that have forward derivatives.
    return _mse(outputs, targets) if outputs.shape == targets.shape else functional.mse_loss(outputs, targets)


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    # Spelled out, because functional.mse_loss has no forward derivative of its gradient.
    return (outputs - targets.to(outputs.dtype).view_as(outputs)).square().mean()
