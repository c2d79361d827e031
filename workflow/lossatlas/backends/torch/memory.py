"""How much memory tensors take: those that exist, and those that a computation would make, without making them."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
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
        return without_contents(function, *arguments)
    except Exception as error:  # whatever is wrong with the function itself shows below
        # A derivative rule that works on tensors without memory (that of ``add(x, constant, alpha=2)``, PyTorch 2.13)
        # fails here, and crashes the process when traced with contents.
        if "cpu and meta" in str(error) or "meta and cpu" in str(error):
            raise
        return function(*arguments)


def without_contents(function: Callable, *arguments: Tensor) -> Any:
    """Return ``function(*arguments)`` on tensors without contents; fails where an operation asks for contents."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = function(*map(mode.from_tensor, arguments))
    if isinstance(found, fx.GraphModule):
        constants = (getattr(found, node.target) for node in found.graph.nodes if node.op == "get_attr")
        assert not any(isinstance(constant, FakeTensor) for constant in constants)
    return found


@dataclass(frozen=True)
class Lives:
    """When the tensors of the graphs of products are alive, from which their memory follows.

    ``kept`` are the bytes of each storage that the primal graph returns, ``prepared`` those of what depends on the
    vectors alone. ``primal`` and ``tangent`` are lists of (born, dies, bytes) of all other storages while one of the
    graphs runs: ``born`` and ``dies`` are the first and last operation during which a storage is alive.
    """

    kept: list[int]
    prepared: list[int]
    primal: list[tuple[int, int, int]]
    tangent: list[tuple[int, int, int]]

    def sizes(self, scaled: Callable[[int], int] = int) -> tuple[int, int]:
        """Return the bytes of what is kept, and of what a run of all graphs has alive beside it at the peak.

        Args:
            scaled: the bytes of a storage, from those that it has here.
        """
        kept, prepared = (sum(map(scaled, part)) for part in (self.kept, self.prepared))
        primal, tangent = (
            _peak([(*life[:2], scaled(life[2])) for life in part]) for part in (self.primal, self.tangent)
        )
        return kept, max(primal - kept, prepared + tangent)


def _peak(lives: list[tuple[int, int, int]]) -> int:
    """Return the largest sum of the bytes that are alive at once."""
    changes: dict[int, int] = {}
    for born, dies, size in lives:
        changes[born] = changes.get(born, 0) + size
        changes[dies + 1] = changes.get(dies + 1, 0) - size
    return max(accumulate(changes[time] for time in sorted(changes)), default=0)


def lives(primal: fx.GraphModule, along: fx.GraphModule, tangent: fx.GraphModule, *given: Tensor) -> Lives:
    """Return when tensors live in a run of graphs on the tensors ``given``, vectors last; those are left out."""
    watch = _Watch(primal, given)
    saved = watch.run(*given[:-1])
    prepared = along(given[-1])
    last = _Watch(tangent, (*given, *saved, *prepared))
    last.run(*saved, *prepared)
    outside = _storages(given)
    kept, ready = ([size for key, size in _storages(part).items() if key not in outside] for part in (saved, prepared))
    return Lives(kept, ready, watch.lives(), last.lives())


class _Watch(fx.Interpreter):
    """Runs a graph, dropping each value after its last use as the compiled graph does, and notes who is alive when."""

    def __init__(self, module: fx.GraphModule, besides: tuple[Any, ...]):
        super().__init__(module)
        self._given, self._time = _storages(besides), 0
        self._alive: dict[int, list[int]] = {}  # by storage: born, bytes, and how many values lie in it
        self._of: dict[fx.Node, dict[int, int]] = {}
        self._lives: list[tuple[int, int, int]] = []

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        self._of[node] = _storages(result)
        for key, size in self._of[node].items():
            if key not in self._given:
                self._alive.setdefault(key, [self._time, size, 0])[2] += 1
        for last in self.user_to_last_uses.get(node, []):
            for key in self._of[last]:
                self._leave(key)
        self._time += 1
        return result

    def _leave(self, key: int) -> None:
        if key in self._alive:
            self._alive[key][2] -= 1
            if not self._alive[key][2]:
                born, size, _ = self._alive.pop(key)
                self._lives.append((born, self._time, size))

    def lives(self) -> list[tuple[int, int, int]]:
        """Return when each storage was first and last alive, and its bytes; what is left is alive at the end."""
        return self._lives + [(born, self._time, size) for born, size, _ in self._alive.values()]


def _storages(values: Any) -> dict[int, int]:
    """Return the bytes of each storage that tensors have, by its address."""
    return {t.untyped_storage()._cdata: _storage_bytes(t) for t in tree_leaves(values) if isinstance(t, Tensor)}


def _storage_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's storage; of one without contents whole rows, of which the last may be shorter.

    So sizes are multiples of the numbers of rows, see ``generic``.
    """
    size = tensor.untyped_storage().nbytes()
    if not isinstance(tensor, FakeTensor):
        return size
    rows = max((n * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)), default=0)
    return max(size, rows * tensor.element_size())


def peak_bytes(run: Callable[[], Any]) -> tuple[int, Any]:
    """Return the most bytes that tensors made while ``run`` runs hold at once, and its result."""
    with _Alive() as alive:
        result = run()
    return alive.peak, result


class _Alive(TorchDispatchMode):
    """Notes the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, tuple[int, weakref.ref]] = {}
        self._now, self.peak = 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether the compiler must be told to leave this alone; importing it takes longer than all the rest."""
        return False

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and note what it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors((result,)):
            storage = tensor.untyped_storage()
            key = storage._cdata
            # Without ``tree_leaves``, which takes longer than the operations: networks have tens of thousands.
            if key not in self._sizes and all(key != t.untyped_storage()._cdata for t in _tensors(args)):
                self._sizes[key] = storage.nbytes(), weakref.ref(storage, partial(self._freed, key))
                self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        return result

    def _freed(self, key: int, _: weakref.ref) -> None:
        self._now -= self._sizes.pop(key)[0]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among an operation's arguments or results, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def saved_bytes(build: Callable[[], Any], besides: Iterable[Tensor]) -> tuple[int, Any]:
    """Return the bytes that autograd saves while ``build`` runs, and its result.

    Without the storages of the tensors ``besides``.
    """
    saved = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]  # the tensor itself would hold the node that holds it

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        built = build()
    return held(saved, besides), built
