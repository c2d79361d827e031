"""Hessian-vector products of a network's mean loss, exact over all samples, in blocks of vectors.

The product is the directional derivative of the gradient (Pearlmutter 1994). For each shape of a chunk of
samples, one graph of theta -> gradient -> derivative along v is traced once, and split into the part that does
not depend on v (``primal``) and the part that does (``tangent``). At one theta the primal part runs once per
chunk; every product then runs only the tangent part. Networks that cannot be traced forward fall back to a
second backward pass per product.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx
from torch.func import functional_call, grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.errors import LossAtlasError

BLOCK = 10
"""Vectors per product; more are cut into blocks, fewer run as a block of their own size."""


class TorchHessian:
    """H of one ``TorchProblem`` at theta, a ``SymmetricOperator``.

    Args:
        memory_gb: what the kept primal values may take; beyond it they are computed anew in each product.
        strategy: ``split`` (see above) or ``rebuild`` (gradient of gradient times v, the plainest way).

    Raises:
        LossAtlasError: the loss or its gradient is NaN or infinite at theta; the message names the chunk.
    """

    def __init__(
        self, problem, theta: np.ndarray, buffers: np.ndarray, memory_gb: float = 2.0, strategy: str = "split"
    ):
        self.problem, self.network = problem, problem.network
        self.size, self.samples = problem.layout.size, problem.samples
        self.dtype = np.dtype(str(self.network.theta.dtype).removeprefix("torch."))
        self.products = 0
        self.network.load(theta=theta, buffers=buffers)
        self.theta, self.buffers = self.network.theta.clone(), self.network.vector(buffers)
        self.strategy = problem.hessian_strategy(strategy)
        self._kept: list[tuple | None] = [None] * len(problem.chunks)
        self._room = memory_gb * 2**30
        self._check()

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v, float64, for ``vector`` of shape (N,)."""
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row of ``vectors`` (k, N), float64; chunks weigh by their number of samples."""
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise LossAtlasError(f"Hessian product: vectors of shape {vectors.shape}, expected (k, {self.size})")
        self.products += len(vectors)
        blocks = [self._block(vectors[i : i + BLOCK]) for i in range(0, len(vectors), BLOCK)]
        return np.concatenate(blocks)

    def _block(self, vectors: np.ndarray) -> np.ndarray:
        v = self.network.vector(vectors)
        total = torch.zeros(v.shape, dtype=torch.float64, device=v.device)
        for number, chunk in enumerate(self.problem.chunks):
            total.add_(self._product(number, chunk, v), alpha=len(chunk[0]) / self.samples)
        return total.cpu().numpy()

    def _product(self, number: int, chunk: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
        if self.strategy == "rebuild":
            return torch.stack([self._rebuild(chunk, row) for row in v])
        primal, tangent = self.problem.hessian_graphs(chunk, len(v))
        with torch.no_grad():
            key, kept = (tuple(v.shape), self._kept[number])
            saved = kept[1] if kept is not None and kept[0] == key else None
            if saved is None:
                saved = primal(self.theta, self.buffers, *chunk)
                self._keep(number, key, saved)
            return tangent(*saved, v)

    def _keep(self, number: int, key: tuple, saved: tuple) -> None:
        need = sum(s.numel() * s.element_size() for s in saved if isinstance(s, Tensor))
        old = self._kept[number]
        if old is not None:
            self._room += old[2]
            self._kept[number] = None
        if need <= self._room:
            self._kept[number] = (key, saved, need)
            self._room -= need

    def _rebuild(self, chunk: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
        theta = self.theta.detach().requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = self.problem.functional_loss(theta, self.buffers, *chunk)
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            if gradient.grad_fn is None:  # a gradient that does not depend on theta
                return torch.zeros_like(v)
            (product,) = torch.autograd.grad(gradient @ v, theta, allow_unused=True)
        return torch.zeros_like(v) if product is None else product.detach()

    def _check(self) -> None:
        """Refuse a point where loss or gradient is not finite."""
        for number, chunk in enumerate(self.problem.chunks):
            value, gradient = self.problem.chunk_gradient(self.theta, self.buffers, chunk)
            if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
                raise LossAtlasError(
                    f"Hessian: loss {float(value)} or its gradient is not finite in chunk {number} "
                    f"of {len(self.problem.chunks)}"
                )


def functional_loss(network, loss: Callable) -> Callable:
    """Return (theta, buffers, inputs, targets) -> mean loss, a pure function of flat vectors."""
    module = network.module

    def call(theta: Tensor, buffers: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        parameters = {slot.name: theta[slot.slice].view(slot.shape) for slot in network.layout}
        return loss(functional_call(module, (parameters, network.unflatten_buffers(buffers)), (inputs,)), targets)

    return call


def products_along(call: Callable) -> Callable:
    """Return (theta, buffers, inputs, targets, vectors) -> derivative of the gradient along each vector."""

    def products(theta: Tensor, buffers: Tensor, inputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        def gradient(at: Tensor) -> Tensor:
            return grad(call)(at, buffers, inputs, targets)

        def along(vector: Tensor) -> Tensor:
            return jvp(gradient, (theta,), (vector,))[1]

        return vmap(along, randomness="error")(vectors)

    return products


def trace_graphs(call: Callable, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor], count: int) -> tuple:
    """Trace the products with ``count`` vectors; return (primal, tangent) graph modules.

    An operation without a forward derivative raises here: two samples are tried without tracing first, since
    PyTorch 2.13 may crash when it traces such an operation (``mse_loss`` is one).
    """
    products = products_along(call)
    vectors = torch.zeros(count, theta.numel(), dtype=theta.dtype, device=theta.device)
    with warnings.catch_warnings(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        products(theta, buffers, chunk[0][:2], chunk[1][:2], vectors[:1])
        joint = make_fx(products)(theta, buffers, *chunk, vectors)
    joint.graph.eliminate_dead_code()
    return split_graph(joint)


def split_graph(joint: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a graph whose last input is v into what does not depend on v and what does.

    ``primal`` takes the other inputs and returns a tuple; ``tangent`` takes that tuple and v.
    """
    *inputs, v = [node for node in joint.graph.nodes if node.op == "placeholder"]
    dependent, crossing = {v}, {}
    for node in joint.graph.nodes:
        if node.op != "output" and any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    output = next(node for node in joint.graph.nodes if node.op == "output")
    for node in [*dependent, output]:
        crossing |= {source: None for source in node.all_input_nodes if source not in dependent}
    saved = [node for node in joint.graph.nodes if node in crossing]
    primal, tangent = fx.Graph(), fx.Graph()
    copies = {node: primal.placeholder(node.name) for node in inputs}
    for node in joint.graph.nodes:
        if node not in dependent and node.op not in ("placeholder", "output"):
            copies[node] = primal.node_copy(node, copies.__getitem__)
    primal.output(tuple(copies[node] for node in saved))
    copies = {node: tangent.placeholder(f"saved_{i}") for i, node in enumerate(saved)}
    copies[v] = tangent.placeholder("v")
    for node in joint.graph.nodes:
        if node in dependent and node is not v:
            copies[node] = tangent.node_copy(node, copies.__getitem__)
    tangent.output(copies[output.args[0]])
    return _module(joint, primal), _module(joint, tangent)


def _module(joint: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.eliminate_dead_code()
    return fx.GraphModule(joint, graph)
