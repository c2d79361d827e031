"""The Hessian of a model at hand: products, eigenpairs and the spectrum."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from lossatlas import config
from lossatlas.api.inputs import backend_of
from lossatlas.config import models
from lossatlas.data import read
from lossatlas.errors import LossAtlasError
from lossatlas.krylov import (
    Eigenpairs,
    NearestPairs,
    eigenpairs,
    nearest_eigenpairs,
    probe_vectors,
    quadrature_runs,
)
from lossatlas.krylov.eigenpairs import check_count
from lossatlas.krylov.lanczos import check_steps
from lossatlas.parallel.progress import Watched
from lossatlas.problem.readiness import choose_products
from lossatlas.results import Spectrum

ENDS = {"LA": "largest", "SA": "smallest", "BE": "both ends, the larger half at the top", "LM": "largest magnitude"}

MATRIX = models.Matrix()
"""The config's defaults, which hold here too."""


def hessian(
    model: Any,
    loss: Any,
    data: Any,
    *,
    operator: str = MATRIX.operator,
    parameters: Sequence[str] = tuple(MATRIX.parameters),
    batch_size: int = MATRIX.batch_size,
    batchnorm: str = MATRIX.batchnorm,
    dtype: str | None = None,
    memory_gb: float = MATRIX.memory_gb,
    strategy: str = MATRIX.strategy,
) -> "Hessian":
    """Return the Hessian of the mean loss over ``data`` at the model's present parameters.

    Args:
        model: a ``torch.nn.Module``, which is copied, or a ``keras.Model`` (Keras on TensorFlow), which is only read.
            It is evaluated in inference mode, dropout off. Parameters that are not trained are constants.
        loss: a function (outputs, targets) -> mean over the batch, or one value per sample or position, averaged
            plainly (where targets are ignored zeros count); or ``"cross-entropy"`` or ``"mse"``. Of
            ``nn.CrossEntropyLoss`` and ``nn.NLLLoss`` weights and ignored targets count over all samples, as in one
            batch. Without weight decay: it may read no parameters.
        data: what ``lossatlas.sample`` returns or takes: a pair (inputs, targets) of arrays or tensors, a dict of
            these with ``labels``, batches of such (``tf.data.Dataset``), a map-style data set or a ``DataLoader``. All
            of it is read, once, and kept on the model's device.
        operator: ``"hessian"``; ``"ggn"``, its generalised Gauss-Newton part; or ``"residual"``, the rest.
        parameters: patterns of names (``"fc*"``) of the parameters that the matrix is restricted to.
        batch_size: samples per chunk; results agree to rounding for any value, unless ``batchnorm`` is ``"batch"``.
        batchnorm: ``"frozen"``, BatchNorm normalises by its running statistics; or ``"batch"``, by mean and variance
            over each chunk, through which derivatives pass, as in training. Running statistics are never changed.
        dtype: ``"float32"`` or ``"float64"`` for the products; left out it is the model's.
        memory_gb: what products may take: values kept between them, and what one works with.
        strategy: how products are computed. ``"split"`` multiplies blocks of vectors forward and keeps all that does
            not depend on them; ``"retained"`` keeps the gradient's graph; ``"rebuild"`` keeps nothing. ``"auto"``
            measures which is fastest here, so that results may differ by rounding from one machine to another.

    Raises:
        LossAtlasError: model, loss and data do not fit together, nothing requires a gradient, loss or gradient is
            NaN or infinite, the loss draws random numbers, or the gradient is not the derivative of the loss.
    """
    choices: dict[str, Any] = {"operator": operator, "parameters": list(parameters), "memory_gb": memory_gb}
    choices["strategy"] = strategy
    config.check({"batch_size": batch_size, "batchnorm": batchnorm, **choices}, "spectra", "hessian")
    backend = backend_of(model)
    with backend.own_modes():
        network = backend.FlatNetwork(model, backend.device_of(model, dtype))
        problem = backend.Problem(network, backend.as_loss(loss), read(data, "data").whole(), batch_size, batchnorm)
        theta, buffers = network.parameters(), network.buffers()
        choice = choose_products(problem, (theta, buffers), 1, choices)
        choices["strategy"] = choice.strategy
        return Hessian(problem.linearize(theta, buffers, **choices), choice.agreement, backend.own_modes)


class Hessian:
    """A symmetric N x N matrix known by its products.

    ``layout`` says which parameter lies where in a vector, ``agreement`` how well products agreed with double backward
    and central differences when they were tried.
    """

    def __init__(self, operator: Any, agreement: dict[str, Any] | None, modes: Callable[[], AbstractContextManager]):
        self._operator, self.agreement, self._modes = operator, agreement, modes
        self.layout, self.samples = operator.layout, operator.samples
        self.size, self.dtype, self.strategy = operator.size, operator.dtype, operator.strategy
        self.shape = (self.size, self.size)

    def __repr__(self) -> str:
        return f"<Hessian of {self.size:,} parameters, mean over {self.samples:,} samples, {self.dtype} products>"

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        """Return H times a vector (N,) or the columns of a matrix (N, k)."""
        return self.linear_operator() @ other

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v, float64, for ``vector`` of shape (N,)."""
        return self.matmat(np.asarray(vector).reshape(1, -1))[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v, float64, for every row of ``vectors`` (k, N)."""
        with self._modes():
            return self._operator.matmat(vectors)

    def linear_operator(self) -> LinearOperator:
        """Return a view for SciPy, whose ``matmat`` takes vectors as columns."""
        return LinearOperator(
            self.shape, matvec=self.matvec, matmat=lambda columns: self.matmat(columns.T).T, dtype=np.float64
        )

    def eigenpairs(
        self,
        k: int = 1,
        which: str = "LA",
        tolerance: float = 1e-4,
        max_products: int = 1000,
        seed: int = 0,
        near: float | None = None,
    ) -> Eigenpairs:
        """Return ``k`` eigenpairs, as often as they are there, in descending order.

        The result has ``values`` (k,), unit ``vectors`` (k, N) as rows, true ``residuals`` ||Hy - lambda y|| (k,),
        flags ``converged`` (k,), and ``products``, the number of products used.

        Args:
            which: ``LA`` largest, ``SA`` smallest (most negative), ``BE`` both ends, ``LM`` largest magnitude.
            tolerance: residual ||Hy - lambda y|| relative to ||H|| at which a pair has converged.
            max_products: after which the search ends, converged or not.
            seed: of the starting vectors.
            near: in place of ``which``, the pairs of the eigenvalues nearest to this number, the nearest first. The
                result then says besides which are ``isolated`` from their neighbours by more than the residual,
                whether there is ``none_nearer`` by more than the tolerance, and ``norm``, ||H||.
        """
        if near is not None:
            return self._nearest(near, k, which, tolerance, max_products, seed)
        choices = {"largest": 1, "tolerance": tolerance, "max_products": max_products, "seed": seed}
        config.check(choices, "search", "eigenpairs")
        if which not in ENDS:
            known = ", ".join(f"{key} ({meaning})" for key, meaning in ENDS.items())
            raise LossAtlasError(f"which: {which!r} is not one of {known}")
        check_count(self.size, k)
        largest = {"LA": k, "SA": 0, "BE": -(-k // 2), "LM": min(k, self.size)}[which]
        smallest = {"LA": 0, "SA": k, "BE": k // 2, "LM": min(k, self.size - largest)}[which]
        watched = Watched(self, "eigenpairs", max_products)
        pairs = eigenpairs(watched, largest, smallest, tolerance, max_products, seed)
        watched.close()
        if which == "LM":
            chosen = np.sort(np.argsort(-np.abs(pairs.values), kind="stable")[:k])
            parts = {name: getattr(pairs, name)[chosen] for name in ("values", "vectors", "residuals", "converged")}
            pairs = replace(pairs, **parts)
        return pairs

    def _nearest(self, near: float, k: int, which: str, tolerance: float, max_products: int, seed: int) -> NearestPairs:
        if which != "LA":
            raise LossAtlasError(f"which: {which!r} is an end of the spectrum; leave it out with 'near'")
        choices = {"near": near, "tolerance": tolerance, "max_products": max_products, "seed": seed}
        config.check({"kind": "eigen", "count": 1, **choices}, "directions", "eigenpairs")
        watched = Watched(self, "eigenpairs", max_products)
        pairs = nearest_eigenpairs(watched, near, k, tolerance, max_products, seed)
        watched.close()
        return pairs

    def spectrum(
        self,
        probes: int = 10,
        steps: int | None = None,
        seed: int = 0,
        distribution: str = "gaussian",
        tolerance: float | None = None,
    ) -> Spectrum:
        """Return the stochastic Lanczos quadrature (GradVis Algorithm 2).

        The result shows its density in Jupyter. It has ``nodes`` and ``weights`` (probe, node), what a ``Result`` has
        (``plot``, ``save``, ``data``), and methods with error bars: ``density``,
        ``distribution``, ``count``, ``moment``, ``trace``, ``effective_dimension``; ``outliers``, isolated eigenvalues
        whose weight is exactly 1 / N in all of these; and ``accuracy``, which says whether probes and steps suffice.

        Args:
            probes: random probe vectors (GradVis's k).
            steps: Lanczos steps per probe, with full reorthogonalisation (GradVis's m); left out 80, or N if that
                is less.
            seed: of the probes, which are the same for all matrices of one size.
            distribution: ``gaussian`` or ``rademacher`` entries, scaled to unit length.
            tolerance: Wasserstein-1 error of the density, relative to the largest magnitude of an eigenvalue, up to
                which probes and steps are added; ``probes`` and ``steps`` are then the most that may be used.
        """
        steps = min(80, self.size) if steps is None else steps
        choices = {"probes": probes, "steps": steps, "seed": seed, "distribution": distribution, "tolerance": tolerance}
        config.check(choices, "spectra", "spectrum")
        check_steps(self.size, steps, probes)
        watched = Watched(self, "spectrum", probes * steps)
        vectors = partial(probe_vectors, self.size, seed=seed, distribution=distribution)
        runs = quadrature_runs(watched, vectors, range(probes), steps, tolerance)
        watched.close()
        return Spectrum.of(runs, self.size)
