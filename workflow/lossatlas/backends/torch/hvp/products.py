"""Curvature of a mean loss along vectors: as graphs traced once, and by second backward passes.

Three matrices, with f the network's outputs, l the loss of outputs, J = df/dtheta (Schraudolph 2002):
``hessian`` H = d2 l(f(theta)), ``ggn`` the generalised Gauss-Newton matrix J' (d2 l/df2) J, and ``residual`` H - GGN,
which comes from the curvature of the network itself. Any of them may be restricted to some parameters.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from lossatlas.backends.torch.batchnorm import statistics
from lossatlas.backends.torch.hvp.derivatives import TrueDerivatives
from lossatlas.backends.torch.memory import imagined, lives, peak_bytes, saved_bytes, without_contents
from lossatlas.backends.torch.network import FlatNetwork, untouched
from lossatlas.backends.torch.tracing import graphs
from lossatlas.backends.torch.tracing.generic import Exact, Generic, unusual, vectors_at_once
from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout
from lossatlas.problem.checks import OPERATORS, check_one_of


class CurvatureMatrix:
    """One of the three matrices of a network's loss, restricted to the parameters ``chosen``.

    The variable is ``free``, the chosen parameters as one vector; all others are read from ``theta``. ``batchnorm``
    is one of ``batchnorm.BATCHNORM``.

    Raises:
        LossAtlasError: there is no such operator.
    """

    def __init__(
        self, network: FlatNetwork, loss: Callable, operator: str, chosen: ParameterLayout, batchnorm: str = "frozen"
    ):
        check_one_of("operator", operator, OPERATORS)
        self.network, self.loss, self.operator, self.chosen = network, loss, operator, chosen
        self.batchnorm = batchnorm
        self._names = {slot.name for slot in chosen}
        self._graphs: dict[tuple, Generic | Exact | None] = {}
        self._unproved: dict[tuple, fx.GraphModule] = {}
        self._rewrites = True
        self.checked = False
        self.traceable: bool | None = None  # whether there are second and forward derivatives
        self._saved: dict[tuple, list[tuple[int, int]]] = {}

    def free(self, theta: Tensor) -> Tensor:
        """Return the chosen parameters of theta as one vector."""
        return torch.cat([theta[slot.slice] for slot in self.network.layout if slot.name in self._names])

    def parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen parameters, in their shapes, as views into one vector of them."""
        # One split: the derivative of each slice of its own would be a whole vector of zeros.
        pieces = flat.split([slot.size for slot in self.chosen])
        return tuple(piece.view(slot.shape) for piece, slot in zip(pieces, self.chosen, strict=True))

    def outputs(self, parts: tuple[Tensor, ...], theta: Tensor, buffers: Tensor, inputs: Tensor) -> Any:
        """Return the network's outputs, a tensor or a tree of tensors, a pure function."""
        parameters = {slot.name: theta[slot.slice].view(slot.shape) for slot in self.network.layout}
        parameters |= {slot.name: part for slot, part in zip(self.chosen, parts, strict=True)}
        own = self.network.unflatten_buffers(buffers)
        with untouched(self.network.module), statistics(self.batchnorm), TrueDerivatives():
            return functional_call(self.network.module, (parameters, own), (inputs,))

    def along(self, free: Tensor, theta: Tensor, buffers: Tensor, inputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """Return the product with one vector by forward derivatives."""

        def outputs(at: tuple[Tensor, ...]) -> Any:
            with graphs.FrozenNorms():
                return self.outputs(at, theta, buffers, inputs)

        put: Callable[[Tensor], Any]

        def values(at: tuple[Tensor, ...]) -> Tensor:
            nonlocal put
            found, put = values_of(outputs(at))
            return found

        # Parameter by parameter: the derivative of a slice of one vector would be a whole vector of zeros each time.
        at, along = self.parts(free), self.parts(v)
        if self.operator != "ggn":
            product = _joined(jvp(grad(lambda parts: self.loss(outputs(parts), targets)), (at,), (along,))[1])
            if self.operator == "hessian":
                return product
        point, pushed = jvp(values, (at,), (along,))
        curved = jvp(grad(lambda of: self.loss(put(of), targets)), (point,), (pushed,))[1]
        gauss_newton = _joined(vjp(values, at)[1](curved)[0])
        return gauss_newton if self.operator == "ggn" else product - gauss_newton

    def graphs(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> tuple:
        """Return the graphs of ``graphs.split`` for chunks of this shape and ``count`` vectors at once.

        One trace serves all numbers of samples and vectors (see ``generic``), unless its products are not those of
        two samples; then each is traced for itself, and run once beside the graph that it rewrites. An operation
        without a forward derivative raises here: two samples are tried without tracing first, since PyTorch 2.13 may
        crash when it traces such an operation.
        """
        made = self._traced(theta, buffers, chunk, count)
        key = (*map(_shape_of_one, chunk), len(chunk[0]), count)
        if isinstance(made, Exact) and key in self._unproved:
            vectors = self._random_vectors(theta, count)
            at = self.free(theta), theta, buffers, *chunk
            parts = graphs.proved(self._unproved.pop(key), made.parts, at, vectors)
            self._rewrites = self._rewrites and parts is made.parts  # wrong once, it is not tried again
            self._graphs[key] = made = replace(made, parts=parts)
        return made.at(len(chunk[0]), count)

    def sizes(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> tuple[int, int]:
        """Return the bytes of what the primal graph returns, and the peak of what the graphs have alive beside it."""
        return self._traced(theta, buffers, chunk, count).sizes(len(chunk[0]), count)

    def serves_all_sizes(self, chunk: tuple[Tensor, Tensor]) -> bool:
        """Return whether one trace that was made serves all numbers of samples like these."""
        return self._graphs.get(tuple(map(_shape_of_one, chunk))) is not None

    def _traced(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> Generic | Exact:
        shapes = tuple(map(_shape_of_one, chunk))
        with warnings.catch_warnings(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            if shapes not in self._graphs:
                self._graphs[shapes] = self._for_all_sizes(theta, buffers, chunk)
            if (generic := self._graphs[shapes]) is not None:
                return generic
            key = (*shapes, len(chunk[0]), count)
            if (made := self._graphs.get(key)) is None:
                free, vectors = self._vectors(theta, count)
                at = free, theta, buffers, *chunk
                joint = imagined(partial(graphs.plain, self._block), *at, vectors)
                if self._rewrites:
                    self._unproved[key] = joint
                parts = graphs.split(graphs.rewrite(joint) if self._rewrites else joint)
                made = self._graphs[key] = Exact(parts, imagined(partial(lives, *parts), *at, vectors))
            return made

    def _for_all_sizes(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> Generic | None:
        """Return graphs for all sizes of chunks with samples like these, None where one trace does not serve them.

        They are tried with two samples and one vector: of large networks one more would take more than products do.
        """
        few, free, vectors = (chunk[0][:2], chunk[1][:2]), self.free(theta), self._random_vectors(theta, 1)
        at = free, theta, buffers, *few
        expected = self._block(*at, vectors)
        try:
            made = self._generic(free, theta, buffers, few)
            primal, along, tangent = made.at(len(few[0]), 1)
            with torch.no_grad():
                found = tangent(*primal(*at), *along(vectors))
        except Exception:  # whatever is wrong with the network itself shows when it is traced as it is
            return None
        # In place: of large networks each vector counts.
        tolerance, largest = torch.finfo(expected.dtype).eps ** 0.5, torch.linalg.vector_norm(expected, torch.inf)
        agrees = found.shape == expected.shape and bool(
            torch.linalg.vector_norm(found.sub_(expected), torch.inf) <= tolerance * largest
        )
        return made if agrees or not largest.isfinite() else None

    def _generic(self, free: Tensor, theta: Tensor, buffers: Tensor, few: tuple[Tensor, Tensor]) -> Generic:
        layout = self.network.layout
        numbers = {n for slots in (layout, self.chosen) for s in slots for n in (*s.shape, s.offset, s.size)}
        numbers |= {buffers.numel(), layout.size, self.chosen.size, *few[0].shape, *few[1].shape}
        numbers |= {n for buffer in self.network.unflatten_buffers(buffers).values() for n in buffer.shape}
        samples, count = unusual(numbers)

        def at(free: Tensor, theta: Tensor, buffers: Tensor, *few: Tensor) -> tuple[Tensor, ...]:
            chunk = [part.new_empty(samples, *part.shape[1:]) for part in few]
            return free, theta, buffers, *chunk, free.new_empty(count, free.numel())

        given = free, theta, buffers, *few
        with vectors_at_once():
            parts = graphs.split(without_contents(lambda *few: graphs.trace(self._block, *at(*few)), *given))
        return Generic(parts, samples, count, without_contents(lambda *few: lives(*parts, *at(*few)), *given))

    def _vectors(self, theta: Tensor, count: int) -> tuple[Tensor, Tensor]:
        free = self.free(theta)
        return free, torch.zeros(count, free.numel(), dtype=free.dtype, device=free.device)

    def _random_vectors(self, theta: Tensor, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, self.chosen.size, generator=generator, dtype=theta.dtype, device="cpu").to(
            theta.device
        )

    def _block(self, *arguments: Tensor) -> Tensor:
        *at, vectors = arguments
        return vmap(lambda v: self.along(*(*at, v)), randomness="error")(vectors)

    def twice(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the product as a function of one vector, by a second backward pass through graphs built here."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            free = self.free(theta).detach().requires_grad_(True)
            outputs = self.outputs(self.parts(free), theta, buffers, chunk[0])
            if self.operator != "ggn":
                gradient = _slope(self.loss(outputs, chunk[1]), free)
            if self.operator != "hessian":
                values, put = values_of(outputs)
                dummy = torch.zeros_like(values, requires_grad=True)
                pulled = _pulled(values, free, dummy, create_graph=True)
                apart = values.detach().requires_grad_(True)
                slope = _slope(self.loss(put(apart), chunk[1]), apart)

        def product(v: Tensor) -> Tensor:
            whole = torch.zeros_like(v)
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                if self.operator != "ggn":
                    whole = _pulled(gradient, free, v)
                if self.operator != "hessian":
                    pushed = _pulled(pulled, dummy, v)  # J v, since J' u is linear in u
                    gauss_newton = _pulled(values, free, _pulled(slope, apart, pushed))
                    whole = gauss_newton if self.operator == "ggn" else whole - gauss_newton
            return whole.detach()

        return product

    def saved(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> tuple[int, int]:
        """Return the bytes that the graphs of ``twice`` hold, and the peak of what a product has alive beside them.

        Both are measured with a few samples.
        """
        samples = len(chunk[0])
        key = (tuple(chunk[0].shape[1:]), tuple(chunk[1].shape[1:]))
        few, more = min(2, samples), min(4, samples)
        if key not in self._saved or (samples > few and len(self._saved[key]) == 1):
            self._saved[key] = [self._bytes(theta, buffers, chunk, n) for n in sorted({few, more})]
        (kept, peak), *others = self._saved[key]
        if others and samples > few:
            each = [(two - one) / (more - few) for one, two in zip((kept, peak), others[0], strict=True)]
            kept, peak = (int(one + (samples - few) * slope) for one, slope in zip((kept, peak), each, strict=True))
        return kept, max(0, peak - kept)

    def _bytes(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> tuple[int, int]:
        few, vector = (chunk[0][:count], chunk[1][:count]), self._vectors(theta, 1)[1][0]

        def run() -> int:
            kept, product = saved_bytes(lambda: self.twice(theta, buffers, few), (theta, *chunk))
            product(vector)
            return kept

        peak, kept = peak_bytes(run)
        return kept, peak

    def operations(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> int:
        """Return the number of operations of the gradient, as autograd records them."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            free = self.free(theta).detach().requires_grad_(True)
            value = self.loss(self.outputs(self.parts(free), theta, buffers, chunk[0][:2]), chunk[1][:2])
            slope = _slope(value, free)
        seen, ahead = set(), [] if slope is None else [slope.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is not None and node not in seen:
                seen.add(node)
                ahead += [following for following, _ in node.next_functions]
        return len(seen)


def _shape_of_one(part: Tensor) -> tuple[int, ...]:
    return tuple(part.shape[1:])


def values_of(outputs: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return all floating-point numbers of a network's outputs as one vector, and what puts others in their place.

    Raises:
        LossAtlasError: there are complex numbers among the outputs, or none that may have a derivative.
    """
    leaves, form = tree_flatten(outputs)
    if any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in leaves):
        raise LossAtlasError("operator: the Gauss-Newton matrix and the residual need real outputs, not complex ones")
    kinds = {i: (leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves) if _is_floating(leaf)}
    if not kinds:
        raise LossAtlasError("model: it returns no tensor of floating-point numbers, nor a tuple, list or dict of them")
    found = [leaves[i] for i in kinds]
    others = [None if i in kinds else leaf for i, leaf in enumerate(leaves)]

    def put(values: Tensor) -> Any:
        parts = values.split([shape.numel() for shape, _ in kinds.values()])
        whole = list(others)
        for part, (i, (shape, dtype)) in zip(parts, kinds.items(), strict=True):
            whole[i] = part.view(shape).to(dtype)
        return tree_unflatten(whole, form)

    return _joined(found) if len(found) > 1 else found[0].reshape(-1), put


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Say in one line which operation has no derivative.

    Raises:
        LossAtlasError: an operation has none, of some order.
    """
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        said = str(error).strip().split("\n")[0]
        if not re.search(r"derivative|differentiable|does not require grad|not implemented", said):
            raise
        raise LossAtlasError(f"model or loss: no second derivative, and so no curvature: {said}") from error


def _slope(value: Tensor, at: Tensor) -> Tensor | None:
    """Return the gradient of a scalar with its graph; None where it does not depend on the point."""
    with _second_derivatives():
        (gradient,) = torch.autograd.grad(value, at, create_graph=True, allow_unused=True)
    return gradient if gradient is not None and gradient.grad_fn is not None else None


def _pulled(of: Tensor | None, at: Tensor, along: Tensor, create_graph: bool = False) -> Tensor:
    """Return the derivative of <of, along>, zero where there is none."""
    if of is None:
        return torch.zeros_like(at)
    with _second_derivatives():
        (found,) = torch.autograd.grad(of, at, along, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(at) if found is None else found
