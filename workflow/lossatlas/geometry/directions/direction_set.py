"""From the config's ``directions`` to a store of raw and used directions, and from stores to a plane's axes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.connection import BEND, shares
from lossatlas.geometry.directions.streams import column_sum
from lossatlas.geometry.directions.unnormalized import RawDirections, Source
from lossatlas.geometry.normalization import drop, normalize
from lossatlas.io.arrays import Array, create_arrays
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.store import Store, open_finished
from lossatlas.io.trajectory import CHUNK_COLUMNS, Trajectory
from lossatlas.parallel.process_group import ALONE, Team

_PARALLEL = 1e-6
"""Directions whose angle is below this (in radians) span no plane that is worth drawing."""


@dataclass
class DirectionSet:
    """Directions as made (``raw``) and as walked along (``used``), both (direction, N) in float64."""

    raw: RawDirections
    used: np.ndarray
    variance_share: np.ndarray

    def build(self, group: zarr.Group, layout: ParameterLayout, spec: dict) -> None:
        """Write everything into an empty store."""
        group.attrs.update(
            {
                "title": f"Directions of kind {spec['kind']}",
                "summary": "Row k of 'used' is the k-th axis direction: 'raw' without the ignored kinds of "
                "parameters, scaled to the norms of theta_c.",
                "kind": spec["kind"],
                "normalize": spec["normalize"],
                "ignore": spec["ignore"],
                "center": spec["center"],
                "layout": layout.to_json(),
                **self.raw.notes,
            }
        )
        raw, used = self.raw, self.used
        bend = np.array([angles(np.stack(pair))[0, 1] for pair in zip(raw.vectors, used, strict=True)])
        known: dict[str, np.ndarray | list] = {"direction": raw.labels, "bend": bend, **raw.values}
        known["variance_share"] = self.variance_share
        for name, vectors in (("raw", raw.vectors), ("used", used)):
            norms = np.linalg.norm(vectors, axis=1)
            known |= {name: vectors, f"{name}_norm": norms, f"{name}_angle": angles(vectors)}
        known |= {} if raw.buffers is None else {"buffers": raw.buffers}
        known |= {array.name: values for array, values in raw.arrays.items()}
        told = {array.name: array for array in VALUES}
        own = [told.get(name, Array(name, _EACH, name.replace("_", " "))) for name in raw.values]
        create_arrays(group, [*arrays(raw.buffers is not None), *own, *raw.arrays], known)


_EACH = ("direction",)
VALUES = (
    Array("explained_variance_ratio", _EACH, "explained variance ratio"),
    Array("eigenvalue", _EACH, "eigenvalue"),
    Array("residual", _EACH, "residual ||Hy - lambda y||"),
    Array("converged", _EACH, "1 where the residual is below tolerance times ||H||", dtype="int8"),
    Array("isolated", _EACH, "1 where no other eigenvalue lies within the residual", dtype="int8"),
    Array("gamma", _EACH, "vvv-basin: weight gamma of the loss on the line"),
    Array("alpha", _EACH, "vvv-basin: half width of the interval of lambda"),
)
"""What directions of one kind have besides: principal components, eigenvectors, mined ones."""


def arrays(moves: bool = False) -> list[Array]:
    """Return the arrays of all stores of directions; ``moves`` says whether running statistics go along with these."""
    each, chosen = _EACH, [Array("direction", ("direction",), "direction", dtype=str)]
    for name, text in (
        ("raw", "direction before normalisation"),
        ("used", "direction in use: ignored kinds zeroed, normalised"),
    ):
        chosen += [
            Array(name, (*each, "parameter"), text, chunks=(1, CHUNK_COLUMNS), compress=False),
            Array(f"{name}_norm", each, f"Euclidean norm of '{name}'"),
            Array(f"{name}_angle", (*each, "other_direction"), f"angles between rows of '{name}'", "degree"),
        ]
    text = "difference of the running statistics that goes with 'raw'"
    chosen += [Array("buffers", (*each, "buffer"), text)] if moves else []
    bend = Array("bend", each, "angle between 'raw' and 'used'", "degree")
    return [*chosen, bend, Array("variance_share", each, "share of the path's variance along 'used'")]


def make_directions(
    spec: dict, trajectory: Trajectory, others: dict[str, Trajectory], threads: int = 1, team: Team = ALONE
) -> DirectionSet:
    """Make the directions of one entry of the config by ``make`` of the module here that is named after their kind.

    Args:
        others: trajectories of other runs by name.
        threads: of each rank of the ``team``, which share what they can.

    Raises:
        LossAtlasError: they cannot be made; the message says why.
    """
    source = Source(trajectory, trajectory.row_of(spec["center"], "directions.center"), others, threads, team)
    kind = import_module(f"lossatlas.geometry.directions.{spec['kind']}")
    return complete(kind.make(spec, source), spec, trajectory, threads, team)


def complete(
    raw: RawDirections, spec: dict, trajectory: Trajectory, threads: int = 1, team: Team = ALONE
) -> DirectionSet:
    """Drop the ignored kinds, normalise, and measure the path's variance along each direction."""
    theta = trajectory.parameters(trajectory.row_of(spec["center"], "directions.center"))
    used = np.stack(
        [
            normalize(drop(v, trajectory.layout, spec["ignore"]), theta, trajectory.layout, spec["normalize"])
            for v in raw.vectors
        ]
    )
    for label, vector in zip(raw.labels, used, strict=True):
        if not np.any(vector):
            raise LossAtlasError(
                f"directions: {label!r} is zero after ignoring {spec['ignore']}; choose other ends or ignore less"
            )
    return DirectionSet(raw, used, variance_shares(used, trajectory, threads, team))


def variance_shares(vectors: np.ndarray, trajectory: Trajectory, threads: int = 1, team: Team = ALONE) -> np.ndarray:
    """Return the share of the path's variance (about its mean checkpoint) along each row of ``vectors``."""

    def measure(columns: slice, block: np.ndarray) -> np.ndarray:
        block -= block.mean(axis=0)
        return np.column_stack([block @ vectors[:, columns].T, np.einsum("ij,ij->i", block, block)])

    found = column_sum(trajectory, measure, threads, team)
    moments = np.square(found[:, :-1]).sum(axis=0) / np.einsum("ij,ij->i", vectors, vectors)
    total = found[:, -1].sum()
    return moments / total if total > 0 else np.zeros(len(vectors))


def angles(vectors: np.ndarray) -> np.ndarray:
    """Return the angles in degrees between all pairs of rows; accurate for small and right angles alike."""
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1.0)[:, None]
    out = np.zeros((len(vectors), len(vectors)))
    for i in range(len(unit)):
        for j in range(i):
            apart, together = np.linalg.norm(unit[i] - unit[j]), np.linalg.norm(unit[i] + unit[j])
            out[i, j] = out[j, i] = np.degrees(2 * np.arctan2(apart, together))
    return out


@dataclass
class Axes:
    """Directions to walk along: ``vectors`` (2, N) of a plane or (curve, N), labels and shares of the path's variance.

    ``angle_given`` of a plane is the angle in degrees before y was made orthogonal to x, None if it was not.
    ``buffers`` (2, buffer) are the differences of running statistics that go with differences of checkpoints. ``ends``
    are the coordinates of the points that whole differences lead to, by name. ``curve`` is the kind of a trained curve
    that lies in the plane, through the ends; None if there is none.
    """

    vectors: np.ndarray
    labels: list[str]
    variance_share: np.ndarray
    identities: dict[str, list[str]]
    angle_given: float | None = None
    buffers: np.ndarray | None = None
    ends: dict[str, list[float]] = field(default_factory=dict)
    curve: str | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """What a store says about the axes of a plane: their angle in degrees, as drawn and as given, and the ends."""
        angle = float(angles(self.vectors)[0, 1])
        given = angle if self.angle_given is None else self.angle_given
        ends = {"end_names": list(self.ends), "end_points": list(self.ends.values())} if self.ends else {}
        curve = {"connection": self.connection.tolist()} if self.curve else {}
        return {"angle": angle, "angle_given": given, **ends, **curve}

    @property
    def connection(self) -> np.ndarray:
        """Where a trained curve runs in the plane, by 101 points (point, 2); none where there is no such curve."""
        if self.curve is None:
            return np.zeros((0, 2))
        corners = [place for name, place in self.ends.items() if name != BEND] + [self.ends[BEND]]
        return shares(self.curve, np.linspace(0, 1, 101)) @ np.array(corners)


@dataclass(frozen=True)
class _Direction:
    """One direction of a store, the vector in use.

    ``buffers`` are the differences of running statistics that go with it, None where it is no difference of
    checkpoints. ``end`` names the point that it leads to, None where it leads to none or was bent on the way. ``curve``
    is the kind of a trained curve that it spans a plane with, None where there is none.
    """

    vector: np.ndarray
    label: str
    of_set: str
    variance_share: float
    buffers: np.ndarray | None
    end: str | None
    curve: str | None

    @classmethod
    def read(cls, store: Store, k: int, of_set: str) -> "_Direction":
        vector, label = store["used"][k], str(store["direction"][k])
        buffers = store["buffers"][k] if "buffers" in store.group else None
        curve = store.attrs.get("curve")
        straight = (curve or buffers is not None) and np.array_equal(store["raw"][k], vector)
        end = label.removeprefix("to ") if straight else None
        return cls(vector, label, of_set, float(store["variance_share"][k]), buffers, end, curve)


def read_directions(parts: Sequence[tuple[Path, int | None]]) -> Axes:
    """Read any number of directions, each as (store, number); no number stands for all of a store.

    Where two sets have a label in common, all labels begin with the name of their set.

    Raises:
        LossAtlasError: a set has fewer directions than asked for.
    """
    found: list[_Direction] = []
    identities = {}
    for path, number in parts:
        store = open_finished(path)
        available = store["used"].shape[0]
        if number is not None and number >= available:
            raise LossAtlasError(f"directions: direction {number + 1} of {path}, which holds {available}")
        found += [_Direction.read(store, k, path.stem) for k in (range(available) if number is None else [number])]
        identities[f"directions/{path.stem}"] = store.identity
    labels = [one.label for one in found]
    if len(identities) > 1 and len(set(labels)) < len(labels):
        labels = [f"{one.of_set}: {one.label}" for one in found]
    vectors, parts_of = np.stack([one.vector for one in found]), np.array([one.variance_share for one in found])
    buffers = [one.buffers for one in found if one.buffers is not None]
    moved = np.stack(buffers) if len(buffers) == len(found) else None
    ends = {one.end: place for one, place in zip(found, np.eye(len(found)).tolist(), strict=True) if one.end}
    curve = found[0].curve if len(found) == len(ends) == 2 and len(identities) == 1 else None
    return Axes(vectors, labels, parts_of, identities, buffers=moved, ends=ends, curve=curve)


def read_axes(parts: list[tuple[Path, int]]) -> Axes:
    """Read (store, number) for x and y.

    Raises:
        LossAtlasError: a set has fewer directions than asked for, or the two are linearly dependent.
    """
    axes = read_directions(parts)
    check_independent(axes.vectors, axes.labels)
    return axes


def orthogonalize(axes: Axes, trajectory: Trajectory) -> Axes:
    """Return axes whose y is what is left of y after its share along x is taken away (Gram-Schmidt, in float64).

    y is not scaled to its former length, so that theta_c + y is as far from the x axis as before: in a plane through
    three checkpoints the third one keeps the coordinate 1 on y.
    """
    x, y = axes.vectors
    along = float(y @ x / (x @ x))
    for _ in range(2):  # the second pass takes away what rounding left
        y = y - (y @ x) / (x @ x) * x
    vectors = np.stack([x, y])
    labels = [axes.labels[0], f"{axes.labels[1]}, orthogonal to x"]
    parts_of = variance_shares(vectors, trajectory)
    ends = {name: [a + along * b, b] for name, (a, b) in axes.ends.items()}
    given = float(angles(axes.vectors)[0, 1])
    return Axes(vectors, labels, parts_of, axes.identities, given, ends=ends, curve=axes.curve)


def check_independent(vectors: np.ndarray, labels: list[str]) -> None:
    """Refuse two directions that span no plane.

    Raises:
        LossAtlasError: they are linearly dependent.
    """
    angle = angles(vectors)[0, 1]
    if min(angle, 180 - angle) < np.degrees(_PARALLEL):
        raise LossAtlasError(
            f"plane: the directions {labels[0]!r} and {labels[1]!r} are linearly dependent (angle {angle:.1e} degrees)"
        )
