"""How much memory tensors take: those that exist, and those that a computation would make, without making them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves


def held(values: Any, besides: Iterable[Tensor] = ()) -> int:
    """Return the bytes that tensors hold, each storage once, without the storages of the tensors ``besides``.

    Counting elements would not do: many tensors are views, and expanded ones have far more elements than bytes.
    """
    given = _storages(tuple(besides))
    return sum(size for key, size in _storages(values).items() if key not in given)


def imagined(function: Callable, *arguments: Tensor) -> Any:
    """Return ``function(*arguments)`` on tensors that have shapes and no contents, so that it costs no memory.

    Where an operation cannot do without contents the function gets the arguments themselves.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            found = function(*map(mode.from_tensor, arguments))
        if isinstance(found, fx.GraphModule):
            constants = (getattr(found, node.target) for node in found.graph.nodes if node.op == "get_attr")
            assert not any(isinstance(constant, FakeTensor) for constant in constants)
        return found
    except Exception as error:  # whatever is wrong with the function itself shows below
        # A derivative rule that works on tensors without memory (that of ``add(x, constant, alpha=2)``, PyTorch 2.13)
        # fails here, and crashes the process when traced with contents.
        if "cpu and meta" in str(error) or "meta and cpu" in str(error):
            raise
        return function(*arguments)


def graph_sizes(
    primal: fx.GraphModule, along: fx.GraphModule, tangent: fx.GraphModule, at: tuple[Tensor, ...], v: Tensor
) -> tuple[int, int]:
    """Return the bytes of what the primal graph returns, and of what a run of all has alive beside it at the peak.

    What they are given is counted in neither.
    """

    def run(*arguments: Tensor) -> tuple[int, int]:
        given, watch = arguments[:-1], _Watch(primal, arguments)
        saved = watch.run(*given)
        kept, beside = held(saved, arguments), watch.peak - held(saved, arguments)
        prepared = along(arguments[-1])
        watch = _Watch(tangent, (*arguments, *saved, *prepared))
        watch.run(*saved, *prepared)
        return kept, max(beside, held(prepared, arguments) + watch.peak)

    return imagined(run, *at, v)


class _Watch(fx.Interpreter):
    """Runs a graph, dropping each value after its last use as the compiled graph does, and notes the peak."""

    def __init__(self, module: fx.GraphModule, besides: tuple[Any, ...]):
        super().__init__(module)
        self.given, self.found, self.peak = _storages(besides), {}, 0

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        self.found[node] = _storages(result)
        alive = {**self.found[node]}
        for other in self.env:
            alive |= self.found[other]
        self.peak = max(self.peak, sum(size for key, size in alive.items() if key not in self.given))
        return result


def _storages(values: Any) -> dict[int, int]:
    """Return the bytes of each storage that tensors have, by its address."""
    storages = [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, Tensor)]
    return {storage._cdata: storage.nbytes() for storage in storages}


def saved_bytes(build: Callable[[], Any], besides: Iterable[Tensor]) -> int:
    """Return the bytes that autograd saves while ``build`` runs, without the storages of the tensors ``besides``."""
    saved = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]  # the tensor itself would hold the node that holds it

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        build()
    return held(saved, besides)
