"""Graphs of products for every number of samples and vectors, from one trace.

Tracing takes as long as many products, and a trace holds for the sizes that it was made with. So it is made with two
prime numbers that occur nowhere in the network, on tensors without contents: whatever number in the graph is a
multiple of a prime stands for as many times the number of samples, or of vectors.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lossatlas.backends.torch.memory import Lives

PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091, 10093, 10099, 10103, 10111, 10133, 10139)


def unusual(numbers: Iterable[int]) -> tuple[int, int]:
    """Return two primes that divide none of the numbers, for samples and vectors.

    Raises:
        RuntimeError: there are none among ``PRIMES``.
    """
    numbers = set(numbers) - {0}
    found = [prime for prime in PRIMES if all(number % prime for number in numbers)]
    if len(found) < 2:
        raise RuntimeError("the sizes of the network leave no number for samples and vectors")
    return found[0], found[1]


@contextmanager
def vectors_at_once() -> Iterator[None]:
    """Let an operation fail that ``vmap`` would apply to one vector after the other: thousands in such a trace.

    Raises:
        RuntimeError: there is one.
    """
    functorch: Any = torch._C._functorch  # has no types
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


@dataclass(frozen=True)
class Exact:
    """The graphs of ``graphs.split`` for the numbers that they were traced with, like ``Generic``."""

    parts: tuple[fx.GraphModule, ...]
    lives: Lives

    def at(self, samples: int, vectors: int) -> tuple[fx.GraphModule, ...]:
        """Return the graphs."""
        return self.parts

    def sizes(self, samples: int, vectors: int) -> tuple[int, int]:
        """Return what ``memory.Lives.sizes`` returns."""
        return self.lives.sizes()


@dataclass(frozen=True)
class Bound:
    """A graph for one number of samples and of vectors."""

    module: fx.GraphModule
    sizes: tuple[int, ...]

    def __call__(self, *arguments: Any) -> Any:
        """Run the graph."""
        return self.module(*self.sizes, *arguments)

    @property
    def graph(self) -> fx.Graph:
        """The graph itself."""
        return self.module.graph


class Generic:
    """The graphs of ``graphs.split`` for any number of samples and vectors.

    Args:
        parts: the graphs, traced with ``samples`` and ``vectors``, which are then changed.
        lives: when the tensors of the graphs live, see ``memory.lives``.
    """

    def __init__(self, parts: tuple[fx.GraphModule, ...], samples: int, vectors: int, lives: Lives):
        self._traced, self._lives = (samples, vectors), lives
        for part in parts:
            self._open(part)
        self._parts = parts

    def at(self, samples: int, vectors: int) -> tuple[Bound, ...]:
        """Return the graphs for these numbers."""
        return tuple(Bound(part, (samples, vectors)) for part in self._parts)

    def sizes(self, samples: int, vectors: int) -> tuple[int, int]:
        """Return what ``memory.Lives.sizes`` returns, for these numbers."""
        return self._lives.sizes(lambda count: int(self._scaled(count, samples, vectors)))

    def _scaled(self, number: int, samples: int, vectors: int) -> int:
        rest, *powers = factors(number, *self._traced)
        return rest * samples ** powers[0] * vectors ** powers[1]

    def _open(self, part: fx.GraphModule) -> None:
        """Let a graph take both numbers, as its first inputs, and compute with them."""
        graph, made = part.graph, {}
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            given = [graph.placeholder(name) for name in ("samples", "vectors")]
        inner = next(node for node in graph.nodes if node.op != "placeholder")

        def opened(value: Any) -> Any:
            if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
                return value
            if value not in made:
                with graph.inserting_before(inner):
                    made[value] = _formula(graph, value, given, self._traced)
            return made[value]

        for node in list(graph.nodes):
            if node.op == "call_function":
                node.args, node.kwargs = (fx.node.map_aggregate(held, opened) for held in (node.args, node.kwargs))
        part.recompile()


def factors(number: int, *primes: int) -> tuple[int, ...]:
    """Return what is left of a number without some primes, and how often each divides it."""
    powers = []
    for prime in primes:
        powers.append(0)
        while number and number % prime == 0:
            number, powers[-1] = number // prime, powers[-1] + 1
    return number, *powers


def _formula(graph: fx.Graph, value: float, given: list[fx.Node], primes: tuple[int, int]) -> fx.Node | float:
    """Return the node that computes a number from samples and vectors, or the number if it has to do with neither."""
    whole, over = _whole(value), _whole(1 / value)
    number, inverse = (over, True) if whole is None and over is not None else (whole, False)
    if number is None:
        return value
    rest, *powers = factors(number, *primes)
    if not any(powers):
        return value
    made: Any = type(value)(rest)
    for node, power in zip(given, powers, strict=True):
        for _ in range(power):
            made = _call(graph, operator.mul, made, node)
    return _call(graph, operator.truediv, 1.0, made) if inverse else made


def _call(graph: fx.Graph, function: Callable, *arguments: Any) -> fx.Node:
    return graph.call_function(function, arguments)


def _whole(value: float) -> int | None:
    """Return the integer that a number is but for rounding, None if it is none."""
    if isinstance(value, int):
        return value
    near = round(value) if abs(value) < 2**52 else 0
    return near if near and abs(value - near) <= 1e-12 * abs(value) else None
