"""Whether products are right: tried on real samples before they are used.

Three witnesses that share as little as can be: the loss, evaluated plainly in float64 at a few samples; central
differences of the gradient there; and plain double backward in the network's precision on the samples that a product
goes through at once. The gradient must be the derivative of the loss, second derivatives must be those of the gradient,
a way of multiplying must give what double backward gives, and its matrix must be symmetric.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lossatlas import rng
from lossatlas.backends.torch.batchnorm import statistics
from lossatlas.backends.torch.device import Device
from lossatlas.backends.torch.hvp.derivatives import TrueDerivatives
from lossatlas.backends.torch.hvp.products import CurvatureMatrix, values_of
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.protocols import Samples
from lossatlas.errors import LossAtlasError
from lossatlas.problem.agreement import ProductAgreement
from lossatlas.problem.hessian import Piece

FEW = 4
"""Samples, spread evenly over all, on which derivatives are compared with differences."""

STEPS = (1e-5, 1e-6, 1e-7, 1e-4)
"""Lengths of differences, relative to theta. A kink of ReLU that lies within one is seldom within all."""

BESIDE = 1e-3
"""How far from theta derivatives are tried, of its root mean square: a fresh network may have units on their kinks (no
bias, an input of zeros), where there is no derivative to compare with."""

SHORTER = (*STEPS, 1e-8, 1e-9)
"""Those of gradients, whose rounding in float64 allows shorter ones: images of many pixels have many kinks nearby."""

SIDES = ((-1, 1), (0, 1), (-1, 0))
"""Where a difference begins and ends, in its lengths. A kink that is very near lies on one side only."""

DERIVATIVE = 1e-3
"""Relative difference beyond which a gradient is not the derivative of the loss."""

CENTRAL = 1e-2
"""Relative difference of any parameter tensor beyond which a second derivative is wrong; those that were are off by
more, and differences are good to 1e-4 at least."""

FLOOR = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Relative difference that rounding alone may explain, whatever was measured."""

MARGIN = 30
"""Times the rounding that was measured on a few samples, up to which a difference is rounding."""


def limit(agreement: ProductAgreement, dtype: torch.dtype) -> float:
    """Return the difference that rounding may explain."""
    return max(FLOOR[dtype], MARGIN * (agreement.rounding or 0.0))


def fault(agreement: ProductAgreement, dtype: torch.dtype) -> str | None:
    """Return what is wrong in words, None where nothing is.

    ``asymmetry`` counts by what it would be for a matrix of that size without any symmetry.
    """
    explained = limit(agreement, dtype)
    if math.isnan(agreement.difference):
        return None
    if not agreement.difference <= explained:
        return f"differs from {agreement.against} by {agreement.difference:.1e}, rounding explains {explained:.0e}"
    if not agreement.asymmetry <= 10 * explained:
        return f"is not symmetric: u'Hv and v'Hu differ by {agreement.asymmetry:.1e}"
    return None


class Referee:
    """Says which second derivatives of PyTorch's are right for a network at a point, by differences in float64.

    ``trusted`` is ``backward`` where double backward is right, ``forward`` where only forward derivatives are.
    ``rounding`` is how far double backward in the network's precision is from float64.

    Raises:
        LossAtlasError: the gradient is not the derivative of the loss, or no second derivative is that of the gradient.
    """

    def __init__(self, problem: Samples, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor):
        self.matrix, self.theta, self.buffers = matrix, theta, buffers
        self.trusted = "backward"
        self.rounding: float | None = None
        self.central: float | None = None
        inputs, targets = problem.some(FEW)
        try:
            exact = _Exact(matrix, theta, buffers, inputs, targets)
        except (RuntimeError, TypeError, ValueError):  # something in the network or loss has a precision of its own
            return
        if not torch.isfinite(exact.gradient).all():
            return  # the Hessian itself refuses the point, and names the chunk
        exact.check_gradient()
        self._judge(exact)
        if self.trusted == "backward" and theta.dtype != torch.float64:
            self.rounding = self._rounding(exact, (inputs, targets))

    def _rounding(self, exact: "_Exact", piece: Piece) -> float:
        """Return how far double backward in the network's precision is from that in float64, at the same parameters."""
        at, own = exact.theta.to(self.theta.dtype), self.matrix.network.theta
        former = own.detach().clone()
        with torch.no_grad():
            own.copy_(at)  # a checkpointed module reads its own when it goes backward
            plain = self.matrix.twice(at, self.buffers, piece)(exact.vector.to(at.dtype))
            own.copy_(former)
        return gap(plain.double(), exact.backward)

    def _judge(self, exact: "_Exact") -> None:
        """Find which second derivatives central differences confirm."""
        self.central = exact.distance(exact.backward)
        if self.central <= CENTRAL:
            return
        where = culprit(exact, second=True)
        forward = exact.forward()
        missed = exact.distance(forward) if forward is not None else math.inf
        said = f"PyTorch's second derivative of {where} is wrong: double backward is off by {self.central:.0%}"
        if not missed <= CENTRAL:
            raise LossAtlasError(
                f"Hessian: {said} from central differences of the gradient, and forward derivatives are no better; "
                "write that operation in plain tensor operations"
            )
        print(f"Hessian products: {said}, forward derivatives agree; they are used", flush=True)
        self.trusted, self.central = "forward", missed

    def compare(self, way: Any, piece: Piece, width: int) -> ProductAgreement:
        """Return how products by a way, with ``width`` vectors at once on a piece, agree with the trusted ones."""
        count = max(2, width)
        vectors = torch.stack([_vector(number, way.matrix.chosen.size, self.theta) for number in range(count)])
        kept = way.keep(piece, width)
        blocks = [way.product(piece, kept, vectors[i : i + width]) for i in range(0, count, width)]
        del kept  # the graphs of double backward are then not held beside it
        products = torch.cat(blocks).double()
        plain, rows = self._plain(piece), sorted({0, count // 2, count - 1})
        expected = [plain(vectors[row]).double() for row in rows]
        difference = max(gap(products[row], of) for row, of in zip(rows, expected, strict=True))
        if not all(bool(torch.isfinite(of).all()) for of in expected):
            difference = math.nan  # nothing to compare with
        return ProductAgreement(
            "double backward" if self.trusted == "backward" else "forward derivatives",
            len(piece[0]),
            len(rows),
            difference,
            self.rounding,
            asymmetry(vectors[[0, -1]].double(), products[[0, -1]]),
            self.central,
        )

    def _plain(self, piece: Piece) -> Callable[[Tensor], Tensor]:
        if self.trusted == "backward":
            return self.matrix.twice(self.theta, self.buffers, piece)
        return partial(self.matrix.along, self.matrix.free(self.theta), self.theta, self.buffers, *piece)


class _Lowered(TorchDispatchMode):
    """Notes whether float64 is turned into a lower precision: losses are then too coarse for short differences."""

    found = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether the compiler must be told to leave this alone; importing it takes two seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Evaluate everything as it is."""
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64:
            self.found |= made.is_floating_point() and made.dtype != torch.float64
        return made


class _Exact:
    """Loss, gradient and products of a few samples in float64, by a copy of the network.

    Raises:
        TypeError: part of the network or the loss has a precision of its own.
    """

    def __init__(self, matrix: CurvatureMatrix, theta: Tensor, buffers: Tensor, inputs: Tensor, targets: Tensor):
        network = matrix.network
        self.network = FlatNetwork(network.module, Device(network.device.device, torch.float64))
        chosen, operator = matrix.chosen, matrix.operator
        self.matrix = CurvatureMatrix(self.network, matrix.loss, operator, chosen, matrix.batchnorm)
        self.inputs, self.targets = tree_map(_exact, inputs), tree_map(_exact, targets)
        aside = BESIDE * max(1e-3, float(theta.square().mean().sqrt())) * _vector(3, len(theta), theta)
        self.theta, self.buffers = (theta + aside).double(), buffers.double()
        self.vector = _vector(0, chosen.size, self.theta)
        with _Lowered() as lowered:
            self.loss_at(self.theta)
        if lowered.found:
            raise TypeError("part of it is computed in a lower precision")
        self.gradient = self.gradient_at(self.theta)
        self.backward = self.matrix.twice(self.theta, self.buffers, (self.inputs, self.targets))(self.vector)

    @torch.no_grad()
    def loss_at(self, theta: Tensor) -> float:
        """Return the loss by a plain evaluation of the module."""
        self.network.load(theta=theta.cpu().numpy(), buffers=self.buffers.cpu().numpy())
        with statistics(self.matrix.batchnorm):
            return float(self.matrix.loss(self.network.module.eval()(self.inputs), self.targets))

    def gradient_at(self, theta: Tensor) -> Tensor:
        """Return the gradient by the chosen parameters."""
        free = self.matrix.free(theta).detach().requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = self.matrix.loss(self._outputs(free, theta), self.targets)
            (found,) = torch.autograd.grad(value, free, allow_unused=True, materialize_grads=True)
        return found

    def _outputs(self, free: Tensor, theta: Tensor) -> Any:
        with torch.no_grad():
            self.network.theta.copy_(theta)  # a checkpointed module reads its own when it goes backward
        return self.matrix.outputs(self.matrix.parts(free), theta, self.buffers, self.inputs)

    def along(self, step: float, vector: Tensor) -> Tensor:
        """Return theta moved along a vector over the chosen parameters."""
        theta = self.theta.clone()
        for slot in self.matrix.chosen:
            whole = next(s for s in self.network.layout if s.name == slot.name)
            theta[whole.slice] += step * vector[slot.slice]
        return theta

    def steps(self, vector: Tensor, lengths: tuple[float, ...] = STEPS) -> Iterator[float]:
        """Yield the lengths of differences along a vector."""
        scale = max(1e-3, float(self.theta.norm())) / max(float(vector.norm()), 1e-300)
        return (step * scale for step in lengths)

    def check_gradient(self) -> None:
        """Refuse a gradient that is not the derivative of the loss.

        Raises:
            LossAtlasError: their difference along random vectors is larger than differences explain.
        """
        norm = float(self.gradient.norm())
        missed = 0.0
        at = self.loss_at(self.theta)
        for vector in (self.vector, *(_vector(number, self.vector.numel(), self.theta) for number in (1, 2))):
            best = math.inf
            for step in self.steps(vector):
                best = min(best, self._missed(step, vector, at))
                if best <= DERIVATIVE * norm:
                    break
            missed = max(missed, best)
        if missed > DERIVATIVE * norm:
            where = culprit(self, second=False)
            raise LossAtlasError(
                f"model: its gradient is not the derivative of its loss (off by {missed / max(norm, 1e-300):.0%}, in "
                f"{where}); what is computed under no_grad or detached has no derivative, so there is no Hessian"
            )

    def _missed(self, step: float, vector: Tensor, at: float) -> float:
        """Return how far the gradient along a vector is from a difference of losses, beyond their rounding."""
        loss = {0: at} | {side: self.loss_at(self.along(side * step, vector)) for side in (-1, 1)}
        slope = float(self.gradient @ vector)
        rounding = 1e-14 * (abs(loss[1]) + abs(loss[-1])) / step
        off = (abs((loss[end] - loss[start]) / ((end - start) * step) - slope) for start, end in SIDES)
        return max(0.0, min(off) - rounding)

    def distance(self, product: Tensor) -> float:
        """Return how far a product is from differences, by the parameter tensor where it is farthest.

        Central ones, unless a kink is near.
        """
        floor = 1e-3 * float(product.norm()) + 1e-7 * float(self.gradient.norm()) + 1e-300
        best = math.inf
        for step in self.steps(self.vector, SHORTER):
            gradients = {0.0: self.gradient}  # those of other lengths would only take memory
            for start, end in SIDES:
                off = self._difference(start * step, end * step, gradients) - product
                parts = (
                    float(off[slot.slice].norm()) / (float(product[slot.slice].norm()) + floor)
                    for slot in self.matrix.chosen
                )
                best = min(best, max(parts))
                if best <= 0.1 * CENTRAL:
                    return best
        return best

    def _difference(self, start: float, end: float, gradients: dict[float, Tensor]) -> Tensor:
        """Return the product with the vector by differences between two places along it.

        Args:
            gradients: by place; those that are missing are added, for places are asked for more than once.
        """
        step, product = end - start, torch.zeros_like(self.vector)
        if self.matrix.operator != "ggn":
            for place in {start, end} - gradients.keys():
                gradients[place] = self.gradient_at(self.along(place, self.vector))
            product = (gradients[end] - gradients[start]) / step
        if self.matrix.operator != "hessian":
            ahead, behind = (self.along(place, self.vector) for place in (end, start))
            gauss_newton = self._gauss_newton(ahead, behind, step)
            product = gauss_newton if self.matrix.operator == "ggn" else product - gauss_newton
        return product

    def _gauss_newton(self, ahead: Tensor, behind: Tensor, step: float) -> Tensor:
        """Return J' (d2 l / d outputs2) J v with both inner derivatives by differences."""
        free = self.matrix.free(self.theta).detach().requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                pushed = values_of(self._outputs(self.matrix.free(ahead), ahead))[0]
                pushed = (pushed - values_of(self._outputs(self.matrix.free(behind), behind))[0]) / 2
            values, put = values_of(self._outputs(free, self.theta))
            slopes = [self._slope(values.detach() + sign * pushed, put) for sign in (1, -1)]
            curved = (slopes[0] - slopes[1]) / step
            (found,) = torch.autograd.grad(values, free, curved, allow_unused=True, materialize_grads=True)
        return found

    def _slope(self, values: Tensor, put: Callable[[Tensor], Any]) -> Tensor:
        values.requires_grad_(True)
        value = self.matrix.loss(put(values), self.targets)
        (found,) = torch.autograd.grad(value, values, allow_unused=True, materialize_grads=True)
        return found

    def forward(self) -> Tensor | None:
        """Return the product by forward derivatives, None where an operation has none."""
        at = self.matrix.free(self.theta), self.theta, self.buffers, self.inputs, self.targets
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return self.matrix.along(*at, self.vector)
        except (NotImplementedError, RuntimeError):
            return None


def _exact(tensor: Any) -> Any:
    return tensor.double() if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor


def _vector(number: int, size: int, like: Tensor) -> Tensor:
    """Return a random vector (size,) by its number, the same in every job; float32 numbers take half the time."""
    drawn = rng.generator(0, "agreement", number).standard_normal(size, np.float32)
    return torch.as_tensor(drawn).to(like.device, like.dtype)


def gap(found: Tensor, expected: Tensor) -> float:
    """Return the distance of two vectors relative to the second; that of two zeros is 0."""
    distance, norm = float((found - expected).norm()), float(expected.norm())
    relative = distance / norm if norm else distance
    return math.inf if math.isnan(relative) else relative


def asymmetry(vectors: Tensor, products: Tensor) -> float:
    """Return |u'Hv - v'Hu| relative to |Hv| |u| / sqrt(N), which it is of the order of without any symmetry."""
    (u, v), (hu, hv) = vectors, products
    size = float(hv.norm() * u.norm() + hu.norm() * v.norm()) / (2 * math.sqrt(u.numel()))
    return abs(float(u @ hv - v @ hu)) / size if size else 0.0


def culprit(exact: _Exact, second: bool) -> str:
    """Return the first module, innermost first, whose own derivative is not that of differences, in words.

    Args:
        second: whether the derivative of its gradient is asked for, or the gradient itself.
    """
    calls: dict[nn.Module, tuple] = {}
    names = {module: name for name, module in exact.network.module.named_modules()}

    def note(module: nn.Module, args: tuple, kwargs: dict, _output: object) -> None:
        calls.setdefault(module, (args, kwargs))

    hooks = [m.register_forward_hook(note, with_kwargs=True) for m in exact.network.module.modules()]
    try:
        exact.loss_at(exact.theta)
    finally:
        for hook in hooks:
            hook.remove()
    for module, (args, kwargs) in calls.items():  # hooks run when a module is done: inner ones come first
        try:
            wrong = _is_wrong(module, args, kwargs, second)
        except (RuntimeError, TypeError, ValueError):
            continue
        if wrong:
            name = names[module]
            return f"{name!r} ({type(module).__name__})" if name else f"{type(module).__name__} itself"
    return "the loss"


def _is_wrong(module: nn.Module, args: tuple, kwargs: dict, second: bool) -> bool:
    """Return whether a module's derivatives, by its real inputs and parameters, are not those of differences."""
    named = {name: p.detach() for name, p in module.named_parameters()}
    given = [a.detach() for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    at = torch.cat([t.reshape(-1) for t in (*named.values(), *given)])
    weights: list[Tensor] = []

    def value(flat: Tensor) -> Tensor:
        parts = iter(flat.split([t.numel() for t in (*named.values(), *given)]))
        parameters = {name: next(parts).view(p.shape) for name, p in named.items()}
        inputs = tuple(next(parts).view(a.shape) if _is_real(a) else a for a in args)
        with TrueDerivatives():
            outputs = functional_call(module, parameters, inputs, kwargs)
        real = [o for o in tree_leaves(outputs) if _is_real(o)]
        if not weights:
            weights.extend(_vector(0, o.numel(), o).view(o.shape) for o in real)
        return sum((o.square() * w).sum() + (o * w).sum() for o, w in zip(real, weights, strict=True))

    def gradient(flat: Tensor, create_graph: bool = False) -> Tensor:
        flat = flat if create_graph else flat.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(value(flat), flat, create_graph=create_graph, materialize_grads=True)
        return found

    vector, step = _vector(0, at.numel(), at), 1e-6 * max(1.0, float(at.norm())) / math.sqrt(max(1, at.numel()))
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        if not second:
            change = (float(value(at + step * vector)) - float(value(at - step * vector))) / (2 * step)
            slope = gradient(at)
            return abs(change - float(slope @ vector)) > DERIVATIVE * float(slope.norm())
        expected = (gradient(at + step * vector) - gradient(at - step * vector)) / (2 * step)
        start = at.clone().requires_grad_(True)
        slope = gradient(start, create_graph=True)
        (found,) = torch.autograd.grad(slope, start, vector, allow_unused=True, materialize_grads=True)
    slope = slope.detach()
    return float((found - expected).norm()) > CENTRAL * float(expected.norm()) + 1e-7 * float(slope.norm())


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
