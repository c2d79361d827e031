"""From the config's ``directions`` to a store of raw and used directions, and from stores to a plane's axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.difference import difference
from lossatlas.geometry.directions.file import from_file
from lossatlas.geometry.directions.pca import pca
from lossatlas.geometry.directions.random import random
from lossatlas.geometry.directions.streams import column_sum
from lossatlas.geometry.directions.unnormalized import RawDirections
from lossatlas.geometry.normalization import drop, normalize
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.store import add_array, open_finished
from lossatlas.io.trajectory import Trajectory
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
        dims = ("direction", "parameter")
        add_array(group, "direction", dims[:1], data=self.raw.labels, long_name="direction")
        for name, vectors, text in (
            ("raw", self.raw.vectors, "direction before normalisation"),
            ("used", self.used, "direction in use: ignored kinds zeroed, normalised"),
        ):
            add_array(
                group,
                name,
                dims,
                data=vectors,
                chunks=(1, min(vectors.shape[1], 2**20)),
                compress=False,
                long_name=text,
            )
            norms = np.linalg.norm(vectors, axis=1)
            add_array(group, f"{name}_norm", dims[:1], data=norms, long_name=f"Euclidean norm of '{name}'")
            add_array(
                group,
                f"{name}_angle",
                ("direction", "other_direction"),
                data=angles(vectors),
                units="degree",
                long_name=f"angles between rows of '{name}'",
            )
        if self.raw.buffers is not None:
            text = "difference of the running statistics that goes with 'raw'"
            add_array(group, "buffers", ("direction", "buffer"), data=self.raw.buffers, long_name=text)
        bend = np.array([angles(np.stack(pair))[0, 1] for pair in zip(self.raw.vectors, self.used, strict=True)])
        add_array(group, "bend", dims[:1], data=bend, units="degree", long_name="angle between 'raw' and 'used'")
        add_array(
            group,
            "variance_share",
            dims[:1],
            data=self.variance_share,
            long_name="share of the path's variance along 'used'",
        )
        for name, values in self.raw.values.items():
            add_array(group, name, dims[:1], data=values, long_name=name.replace("_", " "))
        for name, (along, values, text) in self.raw.arrays.items():
            add_array(group, name, along, data=values, long_name=text)


def make_directions(
    spec: dict, trajectory: Trajectory, others: dict[str, Trajectory], threads: int = 1, team: Team = ALONE
) -> DirectionSet:
    """Make the directions of one entry of the config; ``threads`` of each rank of the ``team`` share what they can.

    Raises:
        LossAtlasError: they cannot be made; the message says why.
    """
    center = trajectory.row_of(spec["center"], "directions.center")

    def components() -> RawDirections:
        solver = spec["center_rows"], spec["solver"], spec["seed"]
        return pca(trajectory, center, spec["count"], *solver, threads, team)

    makers: dict[str, Callable[[], RawDirections]] = {
        "random": lambda: random(trajectory.layout.size, spec["count"], spec["seed"]),
        "pca": components,
        "difference": lambda: difference(trajectory, center, spec["to"], others),
        "file": lambda: from_file(Path(spec["path"]), trajectory.layout),
    }
    return complete(makers[spec["kind"]](), spec, trajectory, threads, team)


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
    are the coordinates of the checkpoints that whole differences lead to, by name.
    """

    vectors: np.ndarray
    labels: list[str]
    variance_share: np.ndarray
    identities: dict[str, list[str]]
    angle_given: float | None = None
    buffers: np.ndarray | None = None
    ends: dict[str, list[float]] = field(default_factory=dict)

    @property
    def notes(self) -> dict[str, Any]:
        """What a store says about the axes of a plane: their angle in degrees, as drawn and as given, and the ends."""
        angle = float(angles(self.vectors)[0, 1])
        given = angle if self.angle_given is None else self.angle_given
        ends = {"end_names": list(self.ends), "end_points": list(self.ends.values())} if self.ends else {}
        return {"angle": angle, "angle_given": given, **ends}


def read_directions(parts: Sequence[tuple[Path, int | None]]) -> Axes:
    """Read any number of directions, each as (store, number); no number stands for all of a store.

    Where two sets have a label in common, all labels begin with the name of their set.

    Raises:
        LossAtlasError: a set has fewer directions than asked for.
    """
    vectors, labels, sets, shares, buffers, identities = [], [], [], [], [], {}
    ends: list[str | None] = []
    for path, number in parts:
        store = open_finished(path)
        available = store["used"].shape[0]
        if number is not None and number >= available:
            raise LossAtlasError(f"directions: direction {number + 1} of {path}, which holds {available}")
        for k in range(available) if number is None else [number]:
            vectors.append(store["used"][k])
            labels.append(str(store["direction"][k]))
            sets.append(path.stem)
            whole = "buffers" in store.group and np.array_equal(store["raw"][k], store["used"][k])
            buffers += [store["buffers"][k]] if "buffers" in store.group else []
            ends.append(labels[-1].removeprefix("to ") if whole else None)
            shares.append(float(store["variance_share"][k]))
        identities[f"directions/{path.stem}"] = store.identity
    if len(identities) > 1 and len(set(labels)) < len(labels):
        labels = [f"{name}: {label}" for name, label in zip(sets, labels, strict=True)]
    moved = np.stack(buffers) if len(buffers) == len(vectors) else None
    places = {name: place for name, place in zip(ends, np.eye(len(ends)).tolist(), strict=True) if name}
    return Axes(np.stack(vectors), labels, np.array(shares), identities, buffers=moved, ends=places)


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
    shares = variance_shares(vectors, trajectory)
    ends = {name: [a + along * b, b] for name, (a, b) in axes.ends.items()}
    return Axes(vectors, labels, shares, axes.identities, float(angles(axes.vectors)[0, 1]), ends=ends)


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
