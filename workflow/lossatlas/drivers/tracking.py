"""Driver: Hessian eigenvectors followed along training, and how gradient and step lie in the subspace that they span.

A unit of work is some consecutive tracked iterations. Within it each search starts from the eigenvectors of the
iteration before; the first one starts cold, at the last iteration of the unit before, so that a unit is a pure
function of its number and no eigenvector is stored.
"""

from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import zarr

from lossatlas.drivers.hessian import TeamJob
from lossatlas.errors import LossAtlasError
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.layout import ParameterLayout
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import Eigenpairs, eigenpairs
from lossatlas.parallel import work_units
from lossatlas.problem import batchnorm_note, choices_of


def pairs_of(spec: dict) -> int:
    """Return how many eigenpairs are tracked."""
    return spec["largest"] + spec["smallest"]


def subspace_of(spec: dict) -> slice:
    """Return which pairs span the top subspace: the largest ones, or the smallest where those alone are tracked."""
    return slice(spec["largest"] or spec["smallest"])


def selection(layout: ParameterLayout, patterns: list[str]) -> list[slice]:
    """Return where the chosen parameters lie in theta, in order."""
    names = {slot.name for slot in layout.select(patterns)}
    return [slot.slice for slot in layout if slot.name in names]


def share_within(vector: np.ndarray, basis: np.ndarray) -> float:
    """Return ||P v||^2 / ||v||^2, P the projection on the orthonormal rows of ``basis``; NaN for a zero vector."""
    square = float(vector @ vector)
    return float(np.sum((basis @ vector) ** 2)) / square if square > 0 else np.nan


ALONG, PAIR = ("iteration",), ("iteration", "pair")

ARRAYS = (
    Array("iteration", ALONG, "iteration", dtype="int64"),
    Array("row", ALONG, "row of the trajectory", dtype="int64"),
    Array("end", ("pair",), "end of the spectrum that the pair was searched at", dtype=str),
    Array("eigenvalue", PAIR, "eigenvalues, descending"),
    Array("residual", PAIR, "||Hy - lambda y||"),
    Array("converged", PAIR, "1 where the residual is below tolerance times ||H||", dtype="int8"),
    Array("overlap", ("iteration", "previous_pair", "pair"), "|<v_j(previous), v_k(now)>|"),
    Array("matched", PAIR, "previous pair that this one continues, -1 at the first iteration", dtype="int64"),
    Array("crossing", ALONG, "1 where the order of the matched pairs changed", dtype="int8"),
    Array("subspace_overlap", ALONG, "mean squared cosine of angles with the previous subspace"),
    Array("gradient_share", ALONG, "share of the gradient in the subspace, ||Pg||^2 / ||g||^2"),
    Array("step_share", ALONG, "share of the step to the next recorded iteration in the subspace"),
    Array("products", ALONG, "Hessian products of the search", dtype="int64"),
)
"""All arrays of a store."""


def planned_size(choices: dict, count: int) -> tuple[int, int]:
    """Return how many files a store of so many tracked iterations has, and bytes before compression."""
    pairs = pairs_of(choices)
    sizes = {"iteration": count, "pair": pairs, "previous_pair": pairs, "row": count}
    return unit_store_size(ARRAYS, sizes, pairs**2 + 3 * pairs + 4, choices["per_unit"])


@dataclass
class Tracking(TeamJob):
    """Eigenvectors followed along the recorded iterations of a run."""

    kind: ClassVar[str] = "tracking"
    points: Trajectory

    @classmethod
    def choose_points(cls, args: Namespace, trajectory: Trajectory, others: dict[str, Trajectory]) -> Trajectory:
        """Return the trajectory itself."""
        return trajectory

    @property
    def products(self) -> int:
        """How many products are computed at most."""
        return len(self.rows) * self.choices["max_products"]

    @cached_property
    def rows(self) -> np.ndarray:
        """The rows of the trajectory that are tracked."""
        return self.points.every(self.choices["stride"])

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store.

        Raises:
            LossAtlasError: more pairs than parameters, or a pattern of ``parameters`` that matches none.
        """
        spec, pairs = self.choices, pairs_of(self.choices)
        if pairs > (size := self.matrix["parameters"]):
            raise LossAtlasError(f"tracking: largest + smallest is {pairs}; the matrix has only {size} parameters")
        group.attrs.update(
            {
                "title": "Hessian eigenvectors along training",
                "summary": "Pair k at iteration i continues pair matched(i, k) of the tracked iteration before.",
                "subspace": f"span of the {'largest' if spec['largest'] else 'smallest'} pairs",
                "subspace_dimension": subspace_of(spec).stop,
                **self.matrix,
                "batchnorm": batchnorm_note(spec, "frozen: each checkpoint's own running statistics"),
            }
        )
        iterations = self.points.iterations[self.rows]
        ends = ["largest"] * spec["largest"] + ["smallest"] * spec["smallest"]
        known = {"iteration": iterations, "row": self.rows, "end": ends}
        create_arrays(group, ARRAYS, known, previous_pair=pairs)
        columns = [f"{name}_{k}" for name in ("eigenvalue", "residual", "converged") for k in range(pairs)]
        columns += [f"overlap_{j}_{k}" for j in range(pairs) for k in range(pairs)]
        columns += ["products", "gradient_share", "step_share"]
        work_units.add_rows(group, "One row per tracked iteration.", len(self.rows), columns, spec["per_unit"])

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the rows into labelled arrays and match the pairs; return figures for the log."""
        table, (rows, pairs) = work_units.results(store), store["eigenvalue"].shape
        values, residuals, converged, overlap, scalars = np.split(
            table, np.cumsum([pairs, pairs, pairs, pairs**2]), axis=1
        )
        overlap, top = overlap.reshape(rows, pairs, pairs), store.attrs["subspace_dimension"]
        matched = np.array([np.full(pairs, -1), *map(match, overlap[1:])])
        crossing = (matched != np.arange(pairs)).any(axis=1) & (np.arange(rows) > 0)
        for name, array in (
            ("eigenvalue", values),
            ("residual", residuals),
            ("converged", converged),
            ("overlap", overlap),
            ("matched", matched),
            ("crossing", crossing),
            ("subspace_overlap", np.square(overlap[:, :top, :top]).sum(axis=(1, 2)) / top),
            ("products", scalars[:, 0]),
            ("gradient_share", scalars[:, 1]),
            ("step_share", scalars[:, 2]),
        ):
            store[name][...] = array
        unconverged = int((converged == 0).any(axis=1).sum())
        figures = {"iterations": rows, "crossings": int(crossing.sum()), "not_converged": unconverged}
        return figures | {"products": int(scalars[:, 0].sum())}

    def evaluate(self, unit: range) -> np.ndarray:
        """Return eigenvalues, residuals, flags, overlaps, products and shares, a line for each row of the unit."""
        state = self.saves.unit(unit.start) if self.saves else None
        saved: dict[str, Any] | None = state.load() if state else None
        lines = list(saved.pop("lines")) if saved else []
        before = Eigenpairs(**saved) if saved else self.search(unit.start - 1) if unit.start else None
        for number in unit[len(lines) :]:
            now = self.search(number, before)
            overlap = np.full((pairs_of(self.choices),) * 2, np.nan)
            if before is not None:
                overlap = np.abs(before.vectors @ now.vectors.T)
            basis = now.vectors[subspace_of(self.choices)]
            shares = [share_within(vector, basis) for vector in (self.gradient(number), self.step(number))]
            lines.append([*now.values, *now.residuals, *now.converged, *overlap.flat, now.products, *shares])
            before = now
            if state and state.due():
                state.save({"lines": lines, **vars(now)})
        return np.array(lines)

    def search(self, number: int, before: Eigenpairs | None = None) -> Eigenpairs:
        """Return the pairs at a tracked iteration, searched from those ``before`` or from a random vector."""
        row, spec = int(self.rows[number]), self.choices
        start = None if before is None else before.vectors.sum(axis=0)
        try:
            at = self.points.parameters(row), self.points.buffers(row)
            operator = self.problem.linearize(*at, leaves=self.team.leaves, **choices_of(spec))
            limits = (spec["largest"], spec["smallest"], spec["tolerance"], spec["max_products"], spec["seed"])
            return eigenpairs(operator, *limits, start, self.team)
        except LossAtlasError as error:
            raise LossAtlasError(f"tracking: iteration {self.points.iterations[row]}: {error}") from error

    def gradient(self, number: int) -> np.ndarray:
        """Return the gradient of the chosen parameters on the same samples."""
        row = int(self.rows[number])
        return self._restricted(self.problem.gradient(self.points.parameters(row), self.points.buffers(row)))

    def step(self, number: int) -> np.ndarray:
        """Return how the chosen parameters move until the next recorded iteration; zero at the last."""
        row = int(self.rows[number])
        after = min(row + 1, len(self.points) - 1)
        ends = (self.points.parameters(i).astype(np.float64) for i in (row, after))
        here, there = map(self._restricted, ends)
        return there - here

    def _restricted(self, vector: np.ndarray) -> np.ndarray:
        return np.concatenate([vector[part] for part in selection(self.problem.layout, self.choices["parameters"])])


def match(overlap: np.ndarray) -> np.ndarray:
    """Return which previous vector (row) each present one (column) continues: the assignment of largest sum."""
    from scipy.optimize import linear_sum_assignment

    previous, present = linear_sum_assignment(overlap, maximize=True)
    return previous[np.argsort(present)]
