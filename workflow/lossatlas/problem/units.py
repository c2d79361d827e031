"""Hidden units that can change places without changing the function of a network (Ainsworth et al. 2022, section 3)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Element = tuple[int, tuple[int, ...]]
"""A unit, and which part of it: none, or its place where a layer has several inputs for each unit (pixels)."""

Axis = list[Element | None] | None
"""What moves along an axis of a tensor, entry by entry; None entries are constants, a None axis moves nothing."""


@dataclass(frozen=True)
class Role:
    """Where the units of a group lie on one axis of a parameter or buffer: ``places`` (unit, part), indices."""

    name: str
    axis: int
    places: np.ndarray


Group = tuple[Role, ...]
"""All roles of units that may change places with each other."""


class Units:
    """Units of all layers, of which those turn out to be one that are added or multiplied entry by entry."""

    def __init__(self) -> None:
        self._above: dict[int, Element] = {}
        self._fixed: set[int] = set()
        self._axes: list[tuple[str, int, list[Element]]] = []
        self._count = 0

    def of_axis(self, name: str, axis: int, size: int, movable: bool = True) -> list[Element]:
        """Return new units for an axis of a parameter or buffer."""
        made = self.new(size, movable)
        self._axes.append((name, axis, made))
        return made

    def new(self, size: int, movable: bool) -> list[Element]:
        """Return new units."""
        numbers = range(self._count, self._count + size)
        self._count += size
        self._fixed.update(() if movable else numbers)
        return [(number, ()) for number in numbers]

    def fix(self, axis: Axis) -> None:
        """Let all units of an axis stay where they are."""
        self._fixed.update(one[0] for one in axis or () if one is not None)

    def join(self, one: Axis, other: Axis) -> Axis:
        """Return the axis of two tensors that are combined entry by entry; their units become the same."""
        if one is None or other is None:
            self.fix(one)
            self.fix(other)
            return None
        return [a if b is None else b if a is None else self._same(a, b) for a, b in zip(one, other, strict=True)]

    def contract(self, inputs: Axis, weights: Axis) -> None:
        """Take a sum of products over two axes: their units become the same; constants among inputs fix weights."""
        self.fix([w for x, w in zip(inputs, weights, strict=True) if x is None] if inputs and weights else None)
        self.join(inputs, weights)

    def _find(self, element: Element) -> Element:
        unit, part = element
        while unit in self._above:
            unit, more = self._above[unit]
            part = more + part
        return unit, part

    def _same(self, one: Element, other: Element) -> Element:
        (a, part_a), (b, part_b) = self._find(one), self._find(other)
        if a == b or (part_a and part_b and part_a != part_b):
            self._fixed.update((a, b) if part_a != part_b else ())
        elif part_a and not part_b:
            self._above[b] = (a, part_a)
        elif part_b and not part_a:
            self._above[a] = (b, part_b)
        else:
            self._above[b] = (a, ())
        return a, part_a

    def groups(self) -> list[Group]:
        """Return the groups of at least two units that may change places, in the order of the network.

        These are units that lie on the same axes of the same tensors with the same parts.
        """
        places: dict[int, dict[tuple, int]] = defaultdict(dict)
        fixed = {self._find((unit, ()))[0] for unit in self._fixed}
        for name, axis, elements in self._axes:
            for index, element in enumerate(elements):
                unit, part = self._find(element)
                if (name, axis, part) in places[unit]:
                    fixed.add(unit)  # it lies there twice
                places[unit][name, axis, part] = index
        alike: dict[tuple, list[int]] = defaultdict(list)
        for unit in sorted(places):
            if unit not in fixed:
                alike[tuple(places[unit])].append(unit)
        return [
            tuple(_roles(roles, [places[unit] for unit in units])) for roles, units in alike.items() if len(units) > 1
        ]


def _roles(roles: Sequence[tuple], places: list[dict[tuple, int]]) -> list[Role]:
    parts: dict[tuple[str, int], list[tuple]] = defaultdict(list)
    for role in roles:
        parts[role[:2]].append(role)
    return [
        Role(name, axis, np.array([[of_unit[role] for role in chosen] for of_unit in places]))
        for (name, axis), chosen in parts.items()
    ]
