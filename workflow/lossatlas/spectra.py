"""Driver: Hessian spectra along training by stochastic Lanczos quadrature (GradVis Algorithms 2 and 5).

A unit of work is one iteration and one block of probes. Probes are common to all iterations, so that what changes
from one iteration to the next is the Hessian and not the noise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from lossatlas import units
from lossatlas.data import Subset
from lossatlas.errors import LossAtlasError
from lossatlas.krylov import Spectrum, Tridiagonal, lanczos, probe_vectors
from lossatlas.krylov.lanczos import check_steps
from lossatlas.problem import Problem
from lossatlas.store import Store, add_array
from lossatlas.trajectory import Trajectory

MAX_BLOCK = 10
"""Probes that share one product; more gain nothing."""


def block_size(probes: int) -> int:
    """Return the largest divisor of ``probes`` up to ``MAX_BLOCK``, so that no unit spans two iterations."""
    return max(size for size in range(1, min(probes, MAX_BLOCK) + 1) if probes % size == 0)


@dataclass
class Plan:
    """Everything that a spectra store is built from."""

    spec: dict
    trajectory: Trajectory
    problem: Problem
    subset: Subset

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store."""
        probes, steps = self.spec["probes"], self.spec["steps"]
        size = self.problem.layout.select(self.spec["parameters"]).size
        check_steps(size, steps, probes)
        rows = self.trajectory.every(self.spec["stride"])
        group.attrs.update(
            {
                "title": "Hessian spectra by stochastic Lanczos quadrature",
                "summary": "The density of eigenvalues at iteration i is mean over probes of sum over nodes of "
                "weight * N(t; node, sigma^2); sigma is chosen when drawing.",
                "parameters": size,
                "operator": self.spec["operator"],
                "parameter_patterns": self.spec["parameters"],
                "distribution": self.spec["distribution"],
                "samples": len(self.subset),
                "subset_digest": self.subset.digest,
                "batchnorm": "frozen: each checkpoint's own running statistics",
            }
        )
        iterations = self.trajectory.iterations[rows]
        add_array(group, "iteration", ("iteration",), data=iterations, long_name="iteration")
        add_array(group, "row", ("iteration",), data=rows, long_name="row of the trajectory")
        for name, text in (
            ("nodes", "Ritz values (Gauss nodes)"),
            ("weights", "squared first components (Gauss weights)"),
            ("residual_bounds", "beta_m |s_mi|, how far a node may be from an eigenvalue"),
            ("alpha", "diagonal of the tridiagonal matrix"),
            ("beta", "off-diagonal; the last one is what was left over"),
        ):
            dims, shape = ("iteration", "probe", "node"), (len(rows), probes, steps)
            add_array(group, name, dims, shape=shape, fill_value=np.nan, long_name=text)
        for name, text in (
            ("trace", "trace of the Hessian"),
            ("trace_error", "standard error of the trace over probes"),
            ("largest", "largest node"),
            ("smallest", "smallest node"),
        ):
            add_array(group, name, ("iteration",), shape=(len(rows),), long_name=text)
        columns = [*(f"alpha_{j}" for j in range(steps)), *(f"beta_{j}" for j in range(steps)), "steps"]
        summary = "One row per iteration and probe, in this order."
        units.add_rows(group, summary, len(rows) * probes, columns, block_size(probes))


class Evaluator:
    """Runs Lanczos for the rows of a unit: some probes at one iteration."""

    def __init__(self, spec: dict, trajectory: Trajectory, problem: Problem):
        self.spec, self.trajectory, self.problem = spec, trajectory, problem
        self.rows = trajectory.every(spec["stride"])

    def __call__(self, unit: range) -> np.ndarray:
        """Return alpha, beta and the number of steps for each row of the unit."""
        probes, steps = self.spec["probes"], self.spec["steps"]
        row = int(self.rows[unit.start // probes])
        numbers = range(unit.start % probes, unit.start % probes + len(unit))
        choices = {key: self.spec[key] for key in ("operator", "parameters", "memory_gb")}
        try:
            theta, buffers = self.trajectory.parameters(row), self.trajectory.buffers(row)
            operator = self.problem.linearize(theta, buffers, **choices)
            vectors = probe_vectors(operator.size, numbers, self.spec["seed"], self.spec["distribution"])
            runs = lanczos(operator, vectors, steps)
        except LossAtlasError as error:
            raise LossAtlasError(f"spectra: iteration {self.trajectory.iterations[row]}: {error}") from error
        table = np.zeros((len(runs), 2 * steps + 1))
        for line, run in zip(table, runs, strict=True):
            line[: run.steps], line[steps : steps + run.steps], line[-1] = run.alpha, run.beta, run.steps
        return table


def read_runs(store: Store) -> list[list[Tridiagonal]]:
    """Return the Lanczos runs of a computed store, per iteration and probe."""
    table = units.results(store)
    iterations, probes, steps = store["nodes"].shape
    runs = []
    for line in table:
        count = int(line[-1])
        runs.append(Tridiagonal(line[:count], line[steps : steps + count]))
    return [runs[i * probes : (i + 1) * probes] for i in range(iterations)]


def finish(store: Store, attempt: dict[str, Any]) -> dict:
    """Turn tridiagonals into nodes, weights and traces; return figures for the log."""
    size, broken = store.attrs["parameters"], 0
    arrays = {n: store[n][...] for n in ("nodes", "weights", "residual_bounds", "alpha", "beta")}
    scalars = {n: store[n][...] for n in ("trace", "trace_error", "largest", "smallest")}
    for i, runs in enumerate(read_runs(store)):
        for p, run in enumerate(runs):
            filled = slice(0, run.steps)
            nodes, weights, bounds = run.ritz()
            for name, values in (("nodes", nodes), ("weights", weights), ("residual_bounds", bounds)):
                arrays[name][i, p, filled] = values
            arrays["alpha"][i, p, filled], arrays["beta"][i, p, filled] = run.alpha, run.beta
            broken += run.steps < arrays["nodes"].shape[2]
        spectrum = Spectrum.of(runs, size)
        trace = spectrum.trace()
        scalars["trace"][i], scalars["trace_error"][i] = trace.value, trace.standard_error
        scalars["largest"][i], scalars["smallest"][i] = np.nanmax(spectrum.nodes), np.nanmin(spectrum.nodes)
    for name, values in {**arrays, **scalars}.items():
        store[name][...] = values
    store.update(short_runs=int(broken))
    store.finish(attempt)
    return {"spectra": len(scalars["trace"]), "short_runs": int(broken)}
