"""Lanczos tridiagonalisation with full reorthogonalisation, for a block of independent probes."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.linalg import eigh_tridiagonal

from lossatlas.errors import LossAtlasError
from lossatlas.krylov.christoffel import quadrature_error
from lossatlas.krylov.collective import ALONE, Collective
from lossatlas.krylov.distributed_vectors import DistributedVectors
from lossatlas.krylov.operator import SymmetricOperator

NOISE_MARGIN = 10.0
"""Breakdown: the next vector is shorter than this multiple of the product's noise."""


class Checkpoint(Protocol):
    """Where a run saves itself and resumes: named arrays, and tables of rows that are only ever added."""

    def part(self, number: int) -> "Checkpoint":
        """Return where a part of the run saves itself."""

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that were saved last, None when there are none."""

    def rows(self, index: int, into: np.ndarray, count: int) -> None:
        """Read the first ``count`` saved rows of table ``index`` into an array (rows, N)."""

    def due(self) -> bool:
        """Return whether to save now."""

    def save(self, arrays: dict[str, Any], tables: list[tuple[np.ndarray, int]]) -> None:
        """Save arrays, and of every table (rows, N) the rows below its count; may end the run by an exception."""


@dataclass
class Tridiagonal:
    """T = Q H Q^T of one probe: ``alpha`` (steps,), ``beta`` (steps,), and the basis Q if it was kept.

    Q is (steps, N), of which each process of a team has its part of the columns.

    ``beta[j]`` couples vectors j and j + 1; the last one is the norm of what is left over, zero after breakdown.
    """

    alpha: np.ndarray
    beta: np.ndarray
    basis: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """Number of Lanczos steps, fewer than asked for after breakdown."""
        return len(self.alpha)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Gauss nodes, weights (squared first components) and residual bounds beta_m |s_mi|, each (steps,)."""
        nodes, vectors = eigh_tridiagonal(self.alpha, self.beta[:-1])
        return nodes, vectors[0] ** 2, self.beta[-1] * np.abs(vectors[-1])


def lanczos(
    operator: SymmetricOperator,
    probes: np.ndarray,
    steps: int,
    keep_basis: bool = False,
    tolerance: float | None = None,
    state: Checkpoint | None = None,
    team: Collective = ALONE,
) -> list[Tridiagonal]:
    """Run ``steps`` Lanczos steps from every row of ``probes`` (k, N), unit vectors, in lockstep.

    With a ``tolerance`` a probe stops when its ``quadrature_error`` and the residual bounds of its first and last node
    are at most half of it times the largest magnitude of a node.

    The recurrence is float64 whatever the products' precision; the basis is kept in the products' precision.
    A probe stops early when its Krylov space is exhausted: the remainder is then at most a small multiple of
    the product's measured noise.

    With a ``state`` the runs are saved now and then, and resume from what was saved.

    The processes of a ``team`` get the same probes and return the same numbers; each computes with its share of the
    samples and its part of every basis vector.

    Raises:
        LossAtlasError: ``steps`` does not lie in 1..N, there is no probe, or a product is NaN or infinite.
        Dropped: the job was told to stop; the state is saved.
    """
    check_steps(operator.size, steps, len(probes))
    shared = DistributedVectors(operator, team)
    runs = [_Run(probe[shared.own], steps, operator.dtype) for probe in probes]
    noise = _restore(runs, state) or measured_noise(shared, probes[0], len(probes))
    while active := [run for run in runs if run.goes_on(tolerance)]:
        products = shared.product(np.stack([run.current for run in active]))
        _advance(shared, active, products, noise)
        if state is not None and state.due():
            tables = [(run.basis, min(run.done + 1, steps)) for run in runs]
            state.save({"noise": noise, **{n: [getattr(r, n) for r in runs] for n in _SAVED}}, tables)
    return [run.result(keep_basis) for run in runs]


def _advance(shared: DistributedVectors, runs: "list[_Run]", products: np.ndarray, noise: float) -> None:
    """Take the products with the current vectors; find the next ones by classical Gram-Schmidt, twice."""
    currents, j = np.stack([run.current for run in runs]), runs[0].done

    def with_current_and_itself(leaf: slice) -> np.ndarray:
        pairs = zip(currents[:, leaf], products[:, leaf], strict=True)
        return np.array([[current @ product, product @ product] for current, product in pairs])

    alphas, squares = shared.sum(with_current_and_itself).T
    if not np.isfinite(squares).all():
        raise LossAtlasError(f"Lanczos step {j + 1}: the product Hv holds NaN or inf")
    rests = shared.orthogonalize(products, [run.basis[: j + 1] for run in runs])
    columns = (alphas, np.sqrt(squares), rests, shared.norms(rests))
    for run, alpha, size, rest, length in zip(runs, *columns, strict=True):
        run.advance(alpha, size, rest, length, noise)


_SAVED = ("alpha", "beta", "done", "exhausted", "norm")


def _restore(runs: "list[_Run]", state: Checkpoint | None) -> float | None:
    """Set the runs to what was saved and return the measured noise, None when nothing was saved."""
    saved = state.load() if state is not None else None
    if state is None or saved is None:
        return None
    for index, run in enumerate(runs):
        run.alpha, run.beta, run.norm = saved["alpha"][index], saved["beta"][index], float(saved["norm"][index])
        run.done, run.exhausted = int(saved["done"][index]), bool(saved["exhausted"][index])
        state.rows(index, run.basis, min(run.done + 1, len(run.basis)))
    return float(saved["noise"])


def check_steps(size: int, steps: int, probes: int) -> None:
    """Refuse impossible numbers of steps and probes."""
    if probes < 1:
        raise LossAtlasError(f"probes: {probes}; at least one is needed")
    if not 1 <= steps <= size:
        raise LossAtlasError(f"steps: {steps}; must lie between 1 and the number of parameters, {size}")


def measured_noise(shared: DistributedVectors, probe: np.ndarray, width: int = 1) -> float:
    """Return the relative noise of a product: how far H(v + w) is from Hv + Hw, for unit v and w.

    Unlike n * eps it reflects what the products really do; repeating a product would often give zero.

    Args:
        width: vectors at once in the products that follow; an operator may prepare itself for each width anew.
    """
    other = np.roll(probe, 1)
    vectors = np.stack([probe, other, probe + other])[:, shared.own]
    blocks = np.resize(vectors, (-(-len(vectors) // width), width, vectors.shape[1]))  # the first ones again at the end
    one, two, both = np.concatenate([shared.product(block) for block in blocks])[: len(vectors)]
    *sizes, distance = shared.norms(np.stack([one, two, both - one - two]))
    measured = distance / max(sizes) if max(sizes) > 0 else 0.0
    return max(measured, 4 * float(np.finfo(shared.operator.dtype).eps))


class _Run:
    """The recurrence of one probe, of which a process holds its part."""

    def __init__(self, probe: np.ndarray, steps: int, dtype: np.dtype):
        self.basis = np.empty((steps, probe.size), dtype)
        self.alpha, self.beta = np.zeros(steps), np.zeros(steps)
        self.basis[0] = probe
        self.done, self.exhausted, self.norm = 0, False, 0.0

    @property
    def current(self) -> np.ndarray:
        return self.basis[self.done].astype(np.float64)

    def advance(self, alpha: float, size: float, rest: np.ndarray, length: float, noise: float) -> None:
        """Take a step: the product had norm ``size``; what is left of it, of norm ``length``, is the next vector."""
        j = self.done
        self.alpha[j], self.beta[j] = alpha, length
        self.norm = max(self.norm, size)
        self.done += 1
        if length <= NOISE_MARGIN * noise * self.norm:
            self.beta[j], self.exhausted = 0.0, True
        elif self.done < len(self.alpha):
            self.basis[self.done] = rest / length

    def goes_on(self, tolerance: float | None) -> bool:
        """Return whether there are steps left to do."""
        return self.done < len(self.alpha) and not (self.exhausted or (tolerance and self.settled(tolerance)))

    def settled(self, tolerance: float) -> bool:
        """Return whether more steps would change the quadrature by less than tolerated."""
        if self.done < 2:
            return False
        nodes, weights, bounds = self.result(False).ritz()
        error = max(quadrature_error(nodes, weights, bounds), bounds[0], bounds[-1])
        return error <= 0.5 * tolerance * np.abs(nodes).max()

    def result(self, keep_basis: bool) -> Tridiagonal:
        n = self.done
        return Tridiagonal(self.alpha[:n].copy(), self.beta[:n].copy(), self.basis[:n] if keep_basis else None)
