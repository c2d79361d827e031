"""Driver: Hessian spectra at sites along training or between checkpoints, by stochastic Lanczos quadrature.

GradVis Algorithms 2 and 5, section 3.4. A unit of work is one site and one block of probes. Probes are common to all
sites, so that what changes from one site to the next is the Hessian and not the noise.
"""

from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import zarr

from lossatlas.drivers.hessian import TeamJob
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.segments import AlongTraining, Line, Sites
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import Accuracy, Spectrum, Tridiagonal, probe_vectors, quadrature_runs
from lossatlas.krylov.lanczos import check_steps
from lossatlas.krylov.quadrature import BLOCK, TOLERANCE
from lossatlas.parallel import work_units
from lossatlas.problem import batchnorm_note, choices_of


def block_size(probes: int, tolerance: float | None = None) -> int:
    """Return how many probes a unit has: the largest divisor up to ``BLOCK``, so that no unit spans two sites.

    With a tolerance it is all probes of a site, for only together do they tell whether they suffice.
    """
    return probes if tolerance else max(size for size in range(1, min(probes, BLOCK) + 1) if probes % size == 0)


MEASURES = {"loss": "loss on the same samples", "gradient_norm": "Euclidean norm of the gradient of all parameters"}
"""What is measured at each site besides the spectrum, where the sites ask for it."""


RUNS = {
    "nodes": "Ritz values (Gauss nodes)",
    "weights": "squared first components (Gauss weights)",
    "residual_bounds": "beta_m |s_mi|, how far a node may be from an eigenvalue",
    "alpha": "diagonal of the tridiagonal matrix",
    "beta": "off-diagonal; the last one is what was left over",
}
"""Arrays (site, probe, node) of a store."""

SUMMARIES = {
    "trace": "trace of the Hessian",
    "trace_error": "standard error of the trace over probes",
    "largest": "largest node",
    "smallest": "smallest node",
    "wasserstein_steps": "bound of the density's Wasserstein-1 error due to few Lanczos steps",
    "wasserstein_probes": "bound of the density's Wasserstein-1 error due to few probes, in 95 % of draws",
}
"""Arrays (site,) of a store."""


def arrays(sites: Sites | type[AlongTraining] | type[Line]) -> list[Array]:
    """Return the arrays of a store of spectra at such sites."""
    along, measures = (sites.axis,), {name: MEASURES[name] for name in sites.measures}
    runs = [Array(name, (*along, "probe", "node"), text, fill_value=np.nan) for name, text in RUNS.items()]
    return [*sites.schema, *runs, *(Array(name, along, text) for name, text in (SUMMARIES | measures).items())]


def planned_size(sites: type[AlongTraining] | type[Line], count: int, choices: dict) -> tuple[int, int]:
    """Return how many files a store of spectra at so many sites has, and bytes before compression, both at most."""
    probes, steps = choices["probes"], choices["steps"]
    sizes = {sites.axis: count, "probe": probes, "node": steps, "row": count * probes}
    columns = 2 * steps + len(sites.measures) + 2
    return unit_store_size(arrays(sites), sizes, columns, block_size(probes, choices["tolerance"]))


@dataclass
class Spectra(TeamJob):
    """Spectra along training, or on a line between two checkpoints where the spec has one."""

    kind: ClassVar[str] = "spectra"
    points: Sites

    @classmethod
    def choose_points(cls, args: Namespace, trajectory: Trajectory, others: dict[str, Trajectory]) -> Sites:
        """Return the sites: on the line of the spec, else along training."""
        if "line" in args.spec:
            return Line(args.spec["line"], trajectory, others, f"spectra_between.{args.output.stem}")
        return AlongTraining(trajectory, args.spec["spectra"]["stride"])

    @property
    def width(self) -> int:
        """How many vectors are multiplied at once."""
        return min(BLOCK, block_size(self.choices["probes"], self.choices["tolerance"]))

    @property
    def products(self) -> int:
        """How many products are computed at most."""
        return len(self.points) * self.choices["probes"] * self.choices["steps"]

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store."""
        spec, sites = self.choices, self.points
        probes, steps = spec["probes"], spec["steps"]
        check_steps(self.matrix["parameters"], steps, probes)
        group.attrs.update(
            {
                "title": "Hessian spectra by stochastic Lanczos quadrature",
                "summary": f"The density of eigenvalues at {sites.axis} i is mean over probes of sum over nodes of "
                "weight * N(t; node, sigma^2); sigma is chosen when drawing.",
                "distribution": spec["distribution"],
                "tolerance": spec["tolerance"] or TOLERANCE,
                **self.matrix,
                **sites.attributes,
                "batchnorm": batchnorm_note(spec, sites.attributes["batchnorm"]),
            }
        )
        create_arrays(group, arrays(sites), sites.data, probe=probes, node=steps)
        columns = [*(f"alpha_{j}" for j in range(steps)), *(f"beta_{j}" for j in range(steps)), "steps"]
        summary = f"One row per {sites.axis} and probe, in this order."
        work_units.add_rows(
            group, summary, len(sites) * probes, [*columns, *sites.measures], block_size(probes, spec["tolerance"])
        )

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Turn tridiagonals into nodes, weights and traces; return figures for the log."""
        size, broken = store.attrs["parameters"], 0
        tables = {name: store[name][...] for name in RUNS}
        scalars = {name: store[name][...] for name in SUMMARIES}
        for i, runs in enumerate(read_runs(store)):
            for p, run in enumerate(runs):
                filled = slice(0, run.steps)
                nodes, weights, bounds = run.ritz()
                for name, values in (("nodes", nodes), ("weights", weights), ("residual_bounds", bounds)):
                    tables[name][i, p, filled] = values
                tables["alpha"][i, p, filled], tables["beta"][i, p, filled] = run.alpha, run.beta
                broken += run.steps < tables["nodes"].shape[2] and run.beta[-1] == 0
            spectrum = Spectrum.of(runs, size)
            trace = spectrum.trace()
            scalars["trace"][i], scalars["trace_error"][i] = trace.value, trace.standard_error
            scalars["largest"][i], scalars["smallest"][i] = np.nanmax(spectrum.nodes), np.nanmin(spectrum.nodes)
            errors = spectrum.accuracy()
            scalars["wasserstein_steps"][i], scalars["wasserstein_probes"][i] = errors.steps, errors.probes
        for name, values in {**tables, **scalars, **read_measures(store)}.items():
            store[name][...] = values
        largest = np.maximum(np.abs(scalars["largest"]), np.abs(scalars["smallest"]))
        accuracy = Accuracy.worst(scalars["wasserstein_steps"], scalars["wasserstein_probes"], largest)
        said = accuracy.statement(store.attrs["tolerance"])
        store.update(short_runs=int(broken), accuracy=said)
        products = int(np.isfinite(tables["nodes"]).sum())
        return {"spectra": len(scalars["trace"]), "products": products, "short_runs": int(broken), "accuracy:": said}

    def evaluate(self, unit: range) -> np.ndarray:
        """Return alpha, beta, the number of steps and the site's measures for each row of the unit."""
        spec, sites = self.choices, self.points
        probes, steps = spec["probes"], spec["steps"]
        site = unit.start // probes
        numbers = range(unit.start % probes, unit.start % probes + len(unit))
        choices = choices_of(spec)
        theta, buffers = sites.parameters(site), sites.buffers(site)
        try:
            operator = self.problem.linearize(theta, buffers, leaves=self.team.leaves, **choices)
            probe = partial(probe_vectors, operator.size, seed=spec["seed"], distribution=spec["distribution"])
            state = self.saves.unit(unit.start) if self.saves else None
            runs = quadrature_runs(operator, probe, numbers, steps, spec["tolerance"], state, self.team)
        except LossAtlasError as error:
            raise LossAtlasError(f"spectra: {sites.axis} {sites.coordinate[site]:.10g}: {error}") from error
        table = np.zeros((len(unit), 2 * steps + 1 + len(sites.measures)))
        for line, run in zip(table, runs, strict=False):  # probes that were not needed have no steps
            line[: run.steps], line[steps : steps + run.steps], line[2 * steps] = run.alpha, run.beta, run.steps
        table[:, 2 * steps + 1 :] = [self._measure(name, theta, buffers) for name in sites.measures]
        return table

    def _measure(self, name: str, theta: np.ndarray, buffers: np.ndarray) -> float:
        if name == "loss":
            return self.problem.metrics(theta, buffers)[0]
        return float(np.linalg.norm(self.problem.gradient(theta, buffers)))


def read_runs(store: Store) -> list[list[Tridiagonal]]:
    """Return the Lanczos runs of a computed store, per site and used probe."""
    table = work_units.results(store)
    sites, probes, steps = store["nodes"].shape
    runs: list[list[Tridiagonal]] = [[] for _ in range(sites)]
    for number, line in enumerate(table):
        count = int(line[2 * steps])
        if count:
            runs[number // probes].append(Tridiagonal(line[:count], line[steps : steps + count]))
    return runs


def read_measures(store: Store) -> dict[str, np.ndarray]:
    """Return what was measured at each site of a computed store by name, (site,) each; nothing along training."""
    _, probes, steps = store["nodes"].shape
    columns = store[work_units.ARRAY].attrs["columns"][2 * steps + 1 : -1]
    values = work_units.results(store)[::probes, 2 * steps + 1 :]
    return dict(zip(columns, values.T, strict=True))
