"""Hidden units of one network in the order of another's: weight matching (git re-basin, Ainsworth et al. 2022).

Networks of one function lie far apart when their units are numbered otherwise. The order is sought in which the inner
product of both parameter vectors is largest, group after group of units by a linear assignment (Algorithm 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout
from lossatlas.problem.units import Group, Role

Tensors = dict[str, np.ndarray]
Shapes = Sequence[tuple[str, Sequence[int]]]

SWEEPS = 100
"""Most passes over all groups; a handful is what it takes."""


@dataclass(frozen=True)
class Aligned:
    """A network with its units in another order: ``theta`` (N,), flat ``buffers``, and how many of its units moved."""

    theta: np.ndarray
    buffers: np.ndarray
    moved: int
    units: int


def align(
    reference: np.ndarray,
    theta: np.ndarray,
    buffers: np.ndarray,
    groups: Sequence[Group],
    layout: ParameterLayout,
    buffer_shapes: Shapes,
) -> Aligned:
    """Return a network with its units in the order of a reference, the same function.

    Ainsworth et al. begin at the order as it is. Here the first pass goes through the network from the inputs on, each
    time to the group of which most weights connect to what is in order already, and looks at these weights alone: an
    order that was only mixed up is found again. Later passes take all weights, until no group gains.

    Args:
        reference, theta: shape (N,).
        buffers: flat, those of ``theta``.
        groups: units that may change places.
        buffer_shapes: name and shape of each buffer in turn.

    Raises:
        LossAtlasError: parameters are NaN or infinite.
    """
    if not (np.isfinite(reference).all() and np.isfinite(theta).all()):
        raise LossAtlasError("align: one of the two checkpoints holds NaN or inf; choose another one")
    shapes = [(slot.name, slot.shape) for slot in layout]
    matching = _Matching(_tensors(reference, shapes), _tensors(theta, shapes), _tensors(buffers, buffer_shapes), groups)
    matching.from_inputs_on()
    for _ in range(SWEEPS):
        gained = [matching.improve(number) for number in range(len(groups))]
        if not any(gained):
            break
    theta = np.concatenate([matching.moving[name].ravel() for name, _ in shapes])
    buffers = np.concatenate([np.zeros(0), *(matching.buffers[name].ravel() for name, _ in buffer_shapes)])
    moved = sum(int((order != np.arange(len(order))).sum()) for order in matching.orders)
    return Aligned(theta, buffers, moved, sum(map(len, matching.orders)))


def reorder(tensors: Tensors, group: Group, order: np.ndarray) -> None:
    """Put unit ``order[k]`` of a group into the place of unit k, wherever the group lies in some tensors."""
    for role in group:
        if role.name in tensors:
            tensors[role.name] = _reordered(tensors[role.name], role, order)


def _reordered(tensor: np.ndarray, role: Role, order: np.ndarray) -> np.ndarray:
    index = np.arange(tensor.shape[role.axis])
    index[role.places] = role.places[order]
    return tensor.take(index, role.axis)


def _tensors(flat: np.ndarray, shapes: Shapes) -> Tensors:
    ends = np.cumsum([math.prod(shape) for _, shape in shapes])[:-1]
    parts = np.split(np.asarray(flat, np.float64), ends) if shapes else []
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes, parts, strict=True)}


class _Matching:
    """The parameters of a reference, and those of another network in the order found so far."""

    def __init__(self, reference: Tensors, moving: Tensors, buffers: Tensors, groups: Sequence[Group]):
        self.reference, self.moving, self.buffers, self.groups = reference, moving, buffers, groups
        self.orders = [np.arange(len(group[0].places)) for group in groups]
        self.roles = [[role for role in group if role.name in reference] for group in groups]

    def from_inputs_on(self) -> None:
        """Match each group once, by the weights that connect it to units in order and to what has no other order."""
        waiting: dict[int, list[Role]] = dict(enumerate(self.roles))
        while waiting:
            unknown = {(role.name, role.axis) for number in waiting for role in self.roles[number]}
            known = {
                number: [one for one in roles if not any(n == one.name and k != one.axis for n, k in unknown)]
                for number, roles in waiting.items()
            }
            sizes = {n: sum(self._rows(self.reference, one).shape[1] for one in roles) for n, roles in known.items()}
            number = max(sizes, key=lambda one: sizes[one])
            self._apply(number, self._best(known[number] or waiting[number]))
            del waiting[number]

    def improve(self, number: int) -> bool:
        """Match a group by all its weights, and say whether the inner product has become larger."""
        roles = self.roles[number]
        order, names = self._best(roles), {role.name for role in roles}
        changed = {name: self.moving[name] for name in names}
        reorder(changed, self.groups[number], order)
        gain = sum(np.vdot(self.reference[name], changed[name] - self.moving[name]) for name in names)
        size = sum(np.linalg.norm(self.reference[name]) * np.linalg.norm(changed[name]) for name in names)
        if gain <= 1e-9 * size:
            return False
        self._apply(number, order)
        return True

    def _best(self, roles: Sequence[Role]) -> np.ndarray:
        """Return which unit of the moving network fits best to each of the reference."""
        alike = sum(self._rows(self.reference, role) @ self._rows(self.moving, role).T for role in roles)
        return linear_sum_assignment(alike, maximize=True)[1]

    @staticmethod
    def _rows(tensors: Tensors, role: Role) -> np.ndarray:
        """Return what belongs to each unit in one role, shape (unit, number)."""
        return np.moveaxis(tensors[role.name], role.axis, 0)[role.places].reshape(len(role.places), -1)

    def _apply(self, number: int, order: np.ndarray) -> None:
        for tensors in (self.moving, self.buffers):
            reorder(tensors, self.groups[number], order)
        self.orders[number] = self.orders[number][order]
