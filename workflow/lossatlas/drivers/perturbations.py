"""Driver: how the loss changes under Gaussian perturbations, sampled and predicted from the Hessian's moments.

Li et al. 2024, section 3: L(theta + lambda eps) - L(theta) with entries of eps from N(0, sigma²), to second order
lambda eps'g + 1/2 lambda² eps'H eps, has the mean 1/2 lambda² sigma² tr H and the variance lambda² sigma² ||g||² + 1/2
lambda⁴ sigma⁴ tr H². (Their Eq. 4 has lambda in place of lambda² sigma², and lambda² in place of lambda⁴.) Both traces
are estimated by stochastic Lanczos quadrature. A unit of work is some rows: the checkpoint itself, draws, or probes.
"""

from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.drivers.base import Evaluate
from lossatlas.drivers.hessian import HessianJob, remembered
from lossatlas.drivers.inputs import identities, read_problem
from lossatlas.geometry.directions.random import random
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.io.store import Store
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov import Spectrum, Tridiagonal, probe_vectors, quadrature_runs
from lossatlas.krylov.lanczos import check_steps
from lossatlas.parallel import World, work_units
from lossatlas.problem import batchnorm_note, choices_of

PER_UNIT = 4
"""Rows of a unit; probes of one unit share their products."""

FACTORS = {
    "sampled_mean": "mean change of the loss over the draws",
    "sampled_mean_error": "standard error of that mean",
    "sampled_variance": "variance of the change of the loss over the draws",
    "sampled_variance_error": "standard error of that variance",
    "increasing": "share of the draws at which the loss increases",
    "predicted_mean": "1/2 factor^2 sigma^2 tr H",
    "predicted_mean_low": "lower end of its 95 % interval over probes",
    "predicted_mean_high": "upper end",
    "predicted_variance": "factor^2 sigma^2 ||g||^2 + 1/2 factor^4 sigma^4 tr H^2",
    "predicted_variance_low": "lower end of its 95 % interval over probes",
    "predicted_variance_high": "upper end",
}
"""Arrays (factor,) of a store."""

SCHEMA = (
    Array("factor", ("factor",), "factor lambda of the perturbation"),
    Array("loss_change", ("factor", "draw"), "L(theta_c + factor eps) - L(theta_c)"),
    *(Array(name, ("factor",), text, fill_value=np.nan) for name, text in FACTORS.items()),
)


def columns(choices: dict) -> int:
    """Return how many columns a row of results has: losses at the factors, or diagonals and steps of a Lanczos run."""
    return max(len(choices["at"]), 2, 2 * choices["steps"] + 1)


def planned_size(choices: dict) -> tuple[int, int]:
    """Return how many files a store of perturbations has, and bytes before compression, both at most."""
    rows = 1 + choices["draws"] + choices["probes"]
    sizes = {"factor": len(choices["at"]), "draw": choices["draws"], "row": rows}
    return unit_store_size(SCHEMA, sizes, columns(choices) + 1, PER_UNIT)


@dataclass
class Perturbations(HessianJob):
    """Changes of the loss at Gaussian perturbations of one checkpoint: ``theta`` with its ``buffers``."""

    theta: np.ndarray
    buffers: np.ndarray
    center: str

    kind: ClassVar[str] = "perturbations"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open trajectory and samples, and rebuild the network on the training samples alone."""
        trajectory, choices = Trajectory(args.trajectory), args.spec["perturbations"]
        problem, subset, device = read_problem(args, world, trajectory, choices)
        row = trajectory.row_of(choices["center"], f"perturbations.{args.output.stem}.center")
        at = trajectory.parameters(row).astype(np.float64), trajectory.buffers(row)
        about: dict[str, Any] = {"device": device, "remembered": remembered(args, device)}
        inputs = identities(trajectory, {"train": subset})
        return cls(args.spec, problem, subset, *at, f"iteration {trajectory.iterations[row]}", inputs=inputs, **about)

    @property
    def width(self) -> int:
        """How many vectors are multiplied at once."""
        return min(PER_UNIT, self.choices["probes"])

    @property
    def products(self) -> int:
        """How many products are computed at most."""
        return self.choices["probes"] * self.choices["steps"]

    def first_point(self) -> tuple[np.ndarray, np.ndarray]:
        """Return theta and buffers of the checkpoint."""
        return self.theta, self.buffers

    def build(self, group: zarr.Group) -> None:
        """Create all arrays of the store."""
        spec, subset = self.choices, self.subset
        check_steps(len(self.theta), spec["steps"], spec["probes"])
        group.attrs.update(
            {
                "title": "Changes of the loss under Gaussian perturbations",
                "summary": "loss_change(factor, draw) = L(theta_c + factor eps) - L(theta_c), entries of eps from "
                "N(0, sigma^2); predicted to second order from stochastic Lanczos quadrature of the Hessian",
                "center": self.center,
                "parameters": len(self.theta),
                **{key: spec[key] for key in ("sigma", "draws", "probes", "steps", "seed")},
                "samples": len(subset),
                "subset_digest": subset.digest,
                "batchnorm": batchnorm_note(spec, "frozen: running statistics of theta_c"),
            }
        )
        create_arrays(group, SCHEMA, {"factor": np.array(spec["at"], float)}, draw=spec["draws"])
        summary = "First row: loss, squared norm of the gradient. Then a row per draw: losses at the factors. Then a "
        summary += "row per probe: alpha (step), beta (step), number of steps."
        names = [f"value {k}" for k in range(columns(spec))]
        work_units.add_rows(group, summary, 1 + spec["draws"] + spec["probes"], names, PER_UNIT)

    def evaluator(self, store: Store) -> Evaluate:
        """Return the function that computes the rows of a unit."""
        return self.as_begun(store).rows

    def rows(self, unit: range) -> np.ndarray:
        """Return the rows of a unit: of the checkpoint, of draws, of probes."""
        draws, found = self.choices["draws"], []
        for row in unit:
            if row <= draws:
                found.append(self._losses(row - 1) if row else self._at_center())
        probes = [row - 1 - draws for row in unit if row > draws]
        if probes:
            found += self._quadrature(range(probes[0], probes[-1] + 1))
        return np.stack([np.pad(one, (0, columns(self.choices) - len(one))) for one in found])

    def _at_center(self) -> np.ndarray:
        gradient = self.problem.gradient(self.theta, self.buffers)
        return np.array([self.problem.metrics(self.theta, self.buffers)[0], gradient @ gradient])

    def _losses(self, draw: int) -> np.ndarray:
        direction = self.choices["sigma"] * random(len(self.theta), 1, self.choices["seed"], draw).vectors
        line = self.problem.restrict(self.theta, direction, self.buffers)
        return line.metrics(np.array(self.choices["at"], float)[:, None])[:, 0]

    def _quadrature(self, numbers: range) -> list[np.ndarray]:
        spec = self.choices
        operator = self.problem.linearize(self.theta, self.buffers, **choices_of(spec))
        probe = partial(probe_vectors, operator.size, seed=spec["seed"], distribution="gaussian")
        runs, table = quadrature_runs(operator, probe, numbers, spec["steps"]), []
        for run in runs:
            padded = [np.pad(part, (0, spec["steps"] - run.steps)) for part in (run.alpha, run.beta)]
            table.append(np.concatenate([*padded, [run.steps]]))
        return table

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Sort the results, and say what was sampled and what is predicted; return figures for the log."""
        attrs, table, at = store.attrs, work_units.results(store), store["factor"][:]
        draws, steps = attrs["draws"], attrs["steps"]
        (loss, gradient), losses = table[0, :2], table[1 : draws + 1, : len(at)]
        runs = [Tridiagonal(row[: int(row[2 * steps])], row[steps : steps + int(row[2 * steps])])
                for row in table[draws + 1 :]]  # fmt: skip
        spectrum = Spectrum.of(runs, attrs["parameters"])
        change = (losses - loss).T
        store["loss_change"][...] = change
        found = sampled(change) | predicted(at, attrs["sigma"], gradient, spectrum)
        for name, values in found.items():
            store[name][...] = values
        trace, square = spectrum.trace(), spectrum.moment(2)
        told = {"loss": loss, "gradient_norm": np.sqrt(gradient), "trace": trace.value,
                "trace_error": trace.standard_error, "trace_of_square": spectrum.size * square.value,
                "trace_of_square_error": spectrum.size * square.standard_error}  # fmt: skip
        store.update(**{name: float(value) for name, value in told.items()})
        shares = ", ".join(f"{share:.0%}" for share in found["increasing"])
        return {"draws": draws, "trace": f"{trace.value:.4g}", "share that increases:": shares}


def sampled(change: np.ndarray) -> dict[str, np.ndarray]:
    """Return the moments of changes (factor, draw) with their standard errors, and how many are positive."""
    count = change.shape[1]
    variance = change.var(axis=1, ddof=1)
    fourth = ((change - change.mean(axis=1, keepdims=True)) ** 4).mean(axis=1)
    excess = np.maximum(fourth - variance**2 * (count - 3) / (count - 1), 0)
    return {
        "sampled_mean": change.mean(axis=1),
        "sampled_mean_error": np.sqrt(variance / count),
        "sampled_variance": variance,
        "sampled_variance_error": np.sqrt(excess / count),
        "increasing": (change > 0).mean(axis=1),
    }


def predicted(at: np.ndarray, sigma: float, gradient: float, spectrum: Spectrum) -> dict[str, np.ndarray]:
    """Return mean and variance of the change to second order, with 95 % intervals.

    Args:
        at: factors (factor,).
        gradient: squared norm of the gradient.
    """
    trace, square, scale = spectrum.trace(), spectrum.moment(2), np.square(at * sigma)
    found = {}
    for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
        found[f"predicted_mean{suffix}"] = scale / 2 * getattr(trace, end)
        of_square = max(spectrum.size * float(getattr(square, end)), 0.0)
        found[f"predicted_variance{suffix}"] = scale * gradient + scale**2 / 2 * of_square
    return found
