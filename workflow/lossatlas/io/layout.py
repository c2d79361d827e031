"""Where each tensor of a network lies in the flat parameter vector theta."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from lossatlas.errors import LossAtlasError

KINDS = ("weight", "bias", "norm-scale", "norm-shift")

Shapes = Sequence[tuple[str, Sequence[int]]]

_VARIANCES = ("running_var", "variance")
"""How the names of buffers end that hold variances: ``running_var`` in PyTorch, ``moving_variance`` in Keras."""


def is_variance(name: str) -> bool:
    """Return whether the buffer of this name holds variances, which are never below zero."""
    return name.endswith(_VARIANCES)


@dataclass(frozen=True)
class ParameterSlot:
    """One tensor inside theta.

    ``kind`` is one of ``KINDS``. ``filter_axis`` is the axis, or the axes together, whose slices are the *filters* of
    filter normalisation (output channel of a convolution, output row of a dense layer); None means that the whole
    tensor counts as one filter.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: str
    filter_axis: int | tuple[int, ...] | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class ParameterLayout:
    """The slots of theta in order, without gaps."""

    slots: tuple[ParameterSlot, ...]

    def __iter__(self) -> Iterator[ParameterSlot]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def size(self) -> int:
        """N, the number of parameters."""
        return sum(slot.size for slot in self.slots)

    def select(self, patterns: Iterable[str]) -> "ParameterLayout":
        """Return the slots whose names match any of the patterns (``fc*``), close together from offset 0.

        Raises:
            LossAtlasError: a pattern matches no name.
        """
        patterns, names = list(patterns), [slot.name for slot in self.slots]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise LossAtlasError(f"parameters: {pattern!r} matches none of {', '.join(names)}")
        chosen, offset = [], 0
        for slot in self.slots:
            if any(fnmatchcase(slot.name, pattern) for pattern in patterns):
                chosen.append(replace(slot, offset=offset))
                offset += slot.size
        return ParameterLayout(tuple(chosen))

    def difference(self, here: "ParameterLayout", frozen: Shapes = (), frozen_here: Shapes = ()) -> str:
        """Return the first parameter that is another one ``here``, in words; nothing if there is none.

        Args:
            frozen, frozen_here: names and shapes of the parameters that are not trained.
        """
        theirs, ours = (
            {slot.name: str(slot.shape) for slot in layout} | {name: f"frozen {tuple(shape)}" for name, shape in fixed}
            for layout, fixed in ((self, frozen), (here, frozen_here))
        )
        for name in [*theirs, *ours]:
            if theirs.get(name) != ours.get(name):
                return f"parameter {name!r} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        return ""

    def to_json(self) -> str:
        return json.dumps([asdict(slot) for slot in self.slots])

    @classmethod
    def from_json(cls, text: str) -> "ParameterLayout":
        return cls(tuple(ParameterSlot(**{k: _as_tuple(v) for k, v in s.items()}) for s in json.loads(text)))


def _as_tuple(value: Any) -> Any:
    """Return what JSON made a list of as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value
