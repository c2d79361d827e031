"""Where each tensor of a network lies in the flat parameter vector theta."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

KINDS = ("weight", "bias", "norm-scale", "norm-shift")


@dataclass(frozen=True)
class ParameterSlot:
    """One tensor inside theta.

    ``kind`` is one of ``KINDS``. ``filter_axis`` is the axis whose slices are the *filters* of filter
    normalisation (output channel of a convolution, output row of a dense layer); None means that the whole
    tensor counts as one filter.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: str
    filter_axis: int | None

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

    def to_json(self) -> str:
        return json.dumps([asdict(slot) for slot in self.slots])

    @classmethod
    def from_json(cls, text: str) -> "ParameterLayout":
        return cls(tuple(ParameterSlot(**{**s, "shape": tuple(s["shape"])}) for s in json.loads(text)))
