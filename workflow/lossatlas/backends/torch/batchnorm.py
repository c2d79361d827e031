"""BatchNorm with the statistics of the samples at hand, as in training, but without moving the running ones."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lossatlas.errors import LossAtlasError


class BatchStatistics(TorchFunctionMode):
    """Lets BatchNorm normalise by mean and biased variance over the batch (Ioffe and Szegedy 2015).

    Derivatives pass through the statistics. The module's own state plays no part: running statistics are neither read
    nor changed. ``used`` tells whether there was any BatchNorm.
    """

    used = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace ``batch_norm``; pass on everything else."""
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        self.used = True
        return _batch_norm(*args, **(kwargs or {}))


def statistics(batchnorm: str) -> AbstractContextManager:
    """Return the context in which a network is to be evaluated; ``batchnorm`` is one of ``checks.BATCHNORM``."""
    return BatchStatistics() if batchnorm == "batch" else nullcontext()


class Reestimated(TorchFunctionMode):
    """Lets BatchNorm normalise by the samples at hand and keep their statistics as its running ones.

    These are their mean and their unbiased variance, as after one pass in training mode with momentum 1.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace ``batch_norm``; pass on everything else."""
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        return _reestimate(*args, **(kwargs or {}))


@torch.inference_mode()
def has_batchnorm(module: nn.Module, inputs: Tensor) -> bool:
    """Return whether the evaluation of a module passes through BatchNorm; ``inputs`` are at least two samples."""
    with BatchStatistics() as found:
        module.eval()(inputs)
    return found.used


def _reestimate(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if input.numel() == input.shape[1]:
        raise LossAtlasError("batchnorm: 'recompute' needs more than one value per channel, and one sample has one")
    return functional.batch_norm(input, running_mean, running_var, weight, bias, True, 1.0, eps)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    # Written out, for every step then has derivatives of all orders, forward and backward, and rules for vmap.
    axes = [axis for axis in range(input.ndim) if axis != 1]
    if input.numel() == input.shape[1]:
        raise LossAtlasError(
            "batchnorm: 'batch' needs more than one value per channel, and a chunk of one sample has one; choose "
            "another batch_size or number of samples, so that the last chunk is larger"
        )
    centred = input - input.mean(axes, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    shape = (1, -1) + (1,) * (input.ndim - 2)
    if weight is not None:
        scale = scale * weight.view(shape)
    normalised = centred * scale
    return normalised if bias is None else normalised + bias.view(shape)
