"""Operations whose derivatives PyTorch gives otherwise than the loss has them, evaluated by others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lossatlas.errors import LossAtlasError


class TrueDerivatives(TorchFunctionMode):
    """Lets a network have the derivatives of its loss as a function of all its parameters. No value changes.

    - ``weight_norm`` is written out: the second derivative of PyTorch's own operation is wrong on a CPU.
    - ``Embedding`` gives gradients with ``padding_idx`` (none for that row), ``scale_grad_by_freq`` (divided by
      counts) and ``sparse`` that are rules for training, not the derivative of the loss; they are left out here.
      With ``max_norm`` it rewrites its weights whenever it is evaluated: there is no loss of given weights then.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace ``embedding`` and ``_weight_norm``; pass on everything else."""
        own = _OWN.get(func, func)
        return own(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return v scaled to the norms g, one for each index along ``dim``, or one for all if it is -1."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _functional_embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, *_: Any, **__: Any
) -> Tensor:
    if max_norm is not None:
        raise LossAtlasError(
            f"model: Embedding(max_norm={max_norm}) changes its weights when it is evaluated, so there is no curvature "
            "at given weights; build it without max_norm"
        )
    return functional.embedding(input, weight)


def _embedding(weight: Tensor, input: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.embedding(weight, input)


def _without_cudnn(function: Callable) -> Callable:
    """Return a recurrent network's function by PyTorch's own kernels: cuDNN's have no backward pass in eval mode."""

    def call(*args: Any, **kwargs: Any) -> Any:
        before = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            return function(*args, **kwargs)
        finally:
            torch.backends.cudnn.enabled = before

    return call


_OWN: dict[Callable, Callable] = {
    **{function: _without_cudnn(function) for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
    torch._weight_norm: _weight_norm,
    functional.embedding: _functional_embedding,
    torch.embedding: _embedding,
}
