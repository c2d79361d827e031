"""Sites of spectra: points of parameter space in a row, along training or on a line between two checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.alignment import align
from lossatlas.io.arrays import Array
from lossatlas.io.layout import is_variance
from lossatlas.io.trajectory import Trajectory
from lossatlas.problem.units import Group


class Sites(ABC):
    """Points of parameter space in a row, and what a store says about them.

    ``axis`` names the ``coordinate`` (site,); ``data`` holds it and more about the sites, as ``schema`` says;
    ``attributes`` says what the sites are; ``measures`` names what is to be measured at each besides the spectrum.
    """

    axis: str
    schema: tuple[Array, ...]
    coordinate: np.ndarray
    data: dict[str, np.ndarray]
    attributes: dict[str, Any]
    measures: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.coordinate)

    @abstractmethod
    def parameters(self, site: int) -> np.ndarray:
        """Return theta of a site, shape (N,)."""

    @abstractmethod
    def buffers(self, site: int) -> np.ndarray:
        """Return the flat buffers that belong to a site."""


class AlongTraining(Sites):
    """Every ``stride``-th recorded iteration and the last (GradVis Algorithm 5)."""

    axis = "iteration"
    schema = (
        Array(axis, (axis,), "iteration", dtype="int64"),
        Array("row", (axis,), "row of the trajectory", dtype="int64"),
    )
    measures = ()

    def __init__(self, trajectory: Trajectory, stride: int):
        self.trajectory = trajectory
        self.rows = trajectory.every(stride)
        self.coordinate = trajectory.iterations[self.rows]
        self.data = {"iteration": self.coordinate, "row": self.rows}
        self.attributes = {"batchnorm": "frozen: each checkpoint's own running statistics"}

    def parameters(self, site: int) -> np.ndarray:
        """Return theta of a checkpoint, shape (N,)."""
        return self.trajectory.parameters(self.rows[site])

    def buffers(self, site: int) -> np.ndarray:
        """Return a checkpoint's own buffers, flat."""
        return self.trajectory.buffers(self.rows[site])


@dataclass(frozen=True)
class Checkpoint:
    """One end of a line: theta (N,), its flat buffers, how labels call it, and what a store says of it besides."""

    theta: np.ndarray
    buffers: np.ndarray
    name: str
    notes: dict[str, str] = field(default_factory=dict)


class Line(Sites):
    """Points of the straight line theta_from + t (theta_to - theta_from) (GradVis section 3.4).

    Args:
        spec: keys ``from``, ``to`` and ``buffers`` of the config; ``points`` and ``extend`` give the coordinate.
        trajectory: of the run at t = 0.
        others: trajectories of the other runs by name.
        where: config key of the line, for messages.
        coordinate: positions on the line, in place of those that ``points`` and ``extend`` give.
        groups: hidden units that may change places, by which the end is brought into the order of the start; left out
            it stays as it is.

    Raises:
        LossAtlasError: the other run has another network, an iteration was not recorded, or the two ends are one
            point.
    """

    axis = "position"
    schema = (
        Array(axis, (axis,), "position on the line: 0 = from, 1 = to"),
        Array("distance", (axis,), "signed distance from 'from' (Euclidean norm)"),
        Array("clipped_variances", (axis,), "running variances below zero on the line, set to zero", dtype="int64"),
    )
    measures = ("loss", "gradient_norm")

    def __init__(
        self,
        spec: dict,
        trajectory: Trajectory,
        others: dict[str, Trajectory],
        where: str,
        coordinate: np.ndarray | None = None,
        groups: Sequence[Group] | None = None,
    ):
        target = spec["to"]
        other = others[target["run"]] if "run" in target else trajectory
        check_same_network(trajectory, other, f"{where}.to.run: run {target.get('run')!r}")
        self.start = read_checkpoint(trajectory, spec["from"], f"{where}.from")
        self.end = read_checkpoint(other, target["iteration"], f"{where}.to.iteration", target.get("run"))
        if groups is not None:
            self.end = align_end(self.start.theta, self.end, groups, trajectory)
        length = float(np.linalg.norm(self.end.theta - self.start.theta))
        if length == 0:
            raise LossAtlasError(f"{where}: 'from' and 'to' are one point; give two different checkpoints")
        self.interpolated = spec["buffers"] == "interpolate"
        if coordinate is None:
            coordinate = np.linspace(-spec["extend"], 1 + spec["extend"], spec["points"])
        self.coordinate = coordinate
        self._variances = variance_mask(trajectory)
        clipped = np.array([int(self._below_zero(t).sum()) for t in self.coordinate])
        self.data = {"position": coordinate, "distance": coordinate * length, "clipped_variances": clipped}
        policies = {
            "interpolate": "interpolate: running statistics move along with the parameters, variances clipped at zero",
            "frozen": "frozen: running statistics of 'from'",
        }
        self.attributes = {
            "batchnorm": policies[spec["buffers"]],
            "from": self.start.name,
            "to": self.end.name,
            "length": length,
            **self.end.notes,
        }

    def parameters(self, site: int) -> np.ndarray:
        """Return theta on the line, shape (N,), float64; at 0 and 1 that of the checkpoints bit for bit."""
        return between(self.start.theta, self.end.theta, self.coordinate[site])

    def buffers(self, site: int) -> np.ndarray:
        """Return the buffers on the line, or those of its start."""
        t = self.coordinate[site]
        return np.where(self._below_zero(t), 0.0, self._unclipped(t))

    def _unclipped(self, t: float) -> np.ndarray:
        return between(self.start.buffers, self.end.buffers, t) if self.interpolated else self.start.buffers

    def _below_zero(self, t: float) -> np.ndarray:
        return self._variances & (self._unclipped(t) < 0)


def align_end(reference: np.ndarray, end: Checkpoint, groups: Sequence[Group], trajectory: Trajectory) -> Checkpoint:
    """Return a checkpoint with its hidden units in the order of a reference (N,), which name and notes say."""
    made = align(reference, end.theta, end.buffers, groups, trajectory.layout, trajectory.store.attrs["buffers"])
    notes = {"alignment": f"weight matching (Ainsworth et al. 2022): {made.moved} of {made.units} hidden units moved"}
    return Checkpoint(made.theta, made.buffers, f"{end.name}, aligned", notes)


def between(start: np.ndarray, end: np.ndarray, t: float) -> np.ndarray:
    """Return (1 - t) start + t end; at 0 and 1 the ends themselves, signs of zeros included."""
    if t in (0.0, 1.0):
        return end if t else start
    return (1 - t) * start + t * end


def variance_mask(trajectory: Trajectory) -> np.ndarray:
    """Return which of the flat buffers are variances, bool (buffer,)."""
    parts = [np.full(int(np.prod(shape)), is_variance(name)) for name, shape in trajectory.store.attrs["buffers"]]
    return np.concatenate([np.zeros(0, bool), *parts])


def check_same_network(one: Trajectory, other: Trajectory, who: str) -> None:
    """Refuse two trajectories whose checkpoints are not points of one space; ``who`` names the other one.

    Raises:
        LossAtlasError: parameters, buffers, or values of parameters that are not trained differ.
    """
    for layout in ("layout", "buffers", "frozen_layout"):
        if one.store.attrs[layout] != other.store.attrs[layout]:
            raise LossAtlasError(f"{who} has another network than this run; choose a run of the same model")
    if not np.array_equal(one.frozen, other.frozen):
        raise LossAtlasError(
            f"{who} holds other values in the parameters that are not trained; no line joins the two networks"
        )


def read_checkpoint(trajectory: Trajectory, iteration: int | str, where: str, run: str | None = None) -> Checkpoint:
    """Return a checkpoint of a trajectory, float64, by its name.

    Raises:
        LossAtlasError: it was not recorded; ``where`` names the config's key.
    """
    row = trajectory.row_of(iteration, where)
    theta, buffers = (values.astype(np.float64) for values in (trajectory.parameters(row), trajectory.buffers(row)))
    name = f"iteration {trajectory.iterations[row]}"
    return Checkpoint(theta, buffers, f"{run}, {name}" if run else name)
