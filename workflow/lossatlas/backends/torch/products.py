"""Curvature of a mean loss along vectors: as graphs traced once, and by second backward passes.

Three matrices, with f the network's outputs, l the loss of outputs, J = df/dtheta (Schraudolph 2002):
``hessian`` H = d2 l(f(theta)), ``ggn`` the generalised Gauss-Newton matrix J' (d2 l/df2) J, and ``residual`` H - GGN,
which comes from the curvature of the network itself. Any of them may be restricted to some parameters.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.backends.torch import graphs
from lossatlas.backends.torch.batchnorm import statistics
from lossatlas.errors import LossAtlasError
from lossatlas.layout import ParameterLayout

OPERATORS = ("hessian", "ggn", "residual")


class Curvature:
    """One of the three matrices of a network's loss, restricted to the parameters ``chosen``.

    The variable is ``free``, the chosen parameters as one vector; all others are read from ``theta``. ``batchnorm``
    is one of ``batchnorm.BATCHNORM``.

    Raises:
        LossAtlasError: there is no such operator.
    """

    def __init__(self, network, loss: Callable, operator: str, chosen: ParameterLayout, batchnorm: str = "frozen"):
        if operator not in OPERATORS:
            raise LossAtlasError(f"operator: {operator!r} is not one of {', '.join(OPERATORS)}")
        self.network, self.loss, self.operator, self.chosen = network, loss, operator, chosen
        self.batchnorm = batchnorm
        self._names = {slot.name for slot in chosen}
        self._graphs: dict[tuple, tuple] = {}

    def free(self, theta: Tensor) -> Tensor:
        """Return the chosen parameters of theta as one vector."""
        return torch.cat([theta[slot.slice] for slot in self.network.layout if slot.name in self._names])

    def parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen parameters, in their shapes, as views into one vector of them."""
        return tuple(flat[slot.slice].view(slot.shape) for slot in self.chosen)

    def outputs(self, parts: tuple[Tensor, ...], theta: Tensor, buffers: Tensor, inputs: Tensor) -> Tensor:
        """Return the network's outputs, a pure function."""
        parameters = {slot.name: theta[slot.slice].view(slot.shape) for slot in self.network.layout}
        parameters |= {slot.name: part for slot, part in zip(self.chosen, parts, strict=True)}
        buffers = self.network.unflatten_buffers(buffers)
        with statistics(self.batchnorm):
            return functional_call(self.network.module, (parameters, buffers), (inputs,))

    def along(self, free: Tensor, theta: Tensor, buffers: Tensor, inputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """Return the product with one vector by forward derivatives."""

        def outputs(at: tuple[Tensor, ...]) -> Tensor:
            with graphs.FrozenNorms():
                return self.outputs(at, theta, buffers, inputs)

        def loss(of: Tensor) -> Tensor:
            return self.loss(of, targets)

        # Parameter by parameter: the derivative of a slice of one vector would be a whole vector of zeros each time.
        at, along = self.parts(free), self.parts(v)
        product = torch.zeros_like(v)
        if self.operator != "ggn":
            product = _joined(jvp(grad(lambda parts: loss(outputs(parts))), (at,), (along,))[1])
        if self.operator != "hessian":
            values, pushed = jvp(outputs, (at,), (along,))
            curved = jvp(grad(loss), (values,), (pushed,))[1]
            gauss_newton = _joined(vjp(outputs, at)[1](curved)[0])
            product = gauss_newton if self.operator == "ggn" else product - gauss_newton
        return product

    def graphs(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> tuple:
        """Return (primal, tangent) graphs for chunks of this shape and blocks of ``count`` vectors, traced once.

        An operation without a forward derivative raises here: two samples are tried without tracing first, since
        PyTorch 2.13 may crash when it traces such an operation (``mse_loss`` is one).
        """
        key = (tuple(chunk[0].shape), tuple(chunk[1].shape), count)
        if key not in self._graphs:
            free = self.free(theta)
            vectors = torch.zeros(count, free.numel(), dtype=free.dtype, device=free.device)
            with warnings.catch_warnings(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                warnings.simplefilter("ignore")
                self._block(free, theta, buffers, chunk[0][:2], chunk[1][:2], vectors[:1])
                joint = graphs.trace(self._block, free, theta, buffers, *chunk, vectors)
            self._graphs[key] = graphs.split(joint)
        return self._graphs[key]

    def _block(self, *arguments: Tensor) -> Tensor:
        *at, vectors = arguments
        return vmap(lambda v: self.along(*at, v), randomness="error")(vectors)

    def rebuilt(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
        """Return the product with one vector by second backward passes, the plainest way."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            free = self.free(theta).detach().requires_grad_(True)
            outputs = self.outputs(self.parts(free), theta, buffers, chunk[0])
            product = torch.zeros_like(v)
            if self.operator != "ggn":
                product = _twice(self.loss(outputs, chunk[1]), free, v)
            if self.operator != "hessian":
                gauss_newton = self._rebuilt_gauss_newton(outputs, chunk[1], free, v)
                product = gauss_newton if self.operator == "ggn" else product - gauss_newton
        return product

    def _rebuilt_gauss_newton(self, outputs: Tensor, targets: Tensor, free: Tensor, v: Tensor) -> Tensor:
        dummy = torch.zeros_like(outputs, requires_grad=True)
        pulled = _gradient(outputs, free, dummy, create_graph=True)
        pushed = _gradient(pulled, dummy, v)  # J v, since J' u is linear in u
        apart = outputs.detach().requires_grad_(True)
        curved = _twice(self.loss(apart, targets), apart, pushed.detach())
        return _gradient(outputs, free, curved)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _twice(value: Tensor, at: Tensor, v: Tensor) -> Tensor:
    """Return the derivative along ``v`` of the gradient of a scalar."""
    (gradient,) = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    if gradient is None or gradient.grad_fn is None:  # a gradient that does not depend on the point
        return torch.zeros_like(v)
    return _gradient(gradient, at, v, retain_graph=True)


def _gradient(of: Tensor, at: Tensor, along: Tensor, **how: bool) -> Tensor:
    (found,) = torch.autograd.grad(of, at, along, allow_unused=True, **how)
    return torch.zeros_like(at) if found is None else found
