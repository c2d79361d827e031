"""The central idea: a Problem is a loss over one flat parameter vector. Everything above sees only this."""

from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, cast

import numpy as np

from lossatlas.io.layout import ParameterLayout
from lossatlas.problem.agreement import PointAgreement
from lossatlas.problem.units import Group


class Hessian(Protocol):
    """The Hessian at one point: products with vectors, float64."""

    size: int
    dtype: np.dtype

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """Return H v for one vector (N,)."""

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return H v for every row of ``vectors`` (k, N)."""


class Place(NamedTuple):
    """A subspace theta(c) = center + sum_k c_k direction_k, and the buffers that belong to its center."""

    center: np.ndarray
    directions: np.ndarray
    buffers: np.ndarray


class Restriction(Protocol):
    """The loss on an affine subspace: theta(c) = center + sum_k c_k direction_k."""

    def metrics(self, points: np.ndarray) -> np.ndarray:
        """Return the metrics (point, metric), in the order of ``Problem.metric_names``, at ``points`` (point, k)."""


class Evaluation(NamedTuple):
    """How points are evaluated: a ``strategy`` by name, and why in words.

    ``error`` is the largest difference of a loss from the network's own precision at the points that were tried, None
    in that precision itself; ``agreement`` says how well the strategy agreed with plain evaluation in that precision,
    None for plain evaluation.
    """

    strategy: str
    told: str
    error: float | None
    agreement: PointAgreement | None = None


class ProductChoices(TypedDict, total=False):
    """Which matrix is meant and how its products are computed; what is left out has a default in each backend."""

    operator: str
    parameters: tuple[str, ...]
    memory_gb: float
    strategy: str


PRODUCT_CHOICES = tuple(ProductChoices.__annotations__)


def choices_of(spec: dict) -> ProductChoices:
    """Return what ``linearize`` takes from the choices of a driver."""
    return cast(ProductChoices, {key: spec[key] for key in PRODUCT_CHOICES if key in spec})


class LocalProductChoices(ProductChoices, total=False):
    """Also which leaves of the samples this process looks at, see ``krylov.tree_sum``."""

    leaves: range


class PointChoices(TypedDict, total=False):
    """How points of a subspace are evaluated; what is left out has a default in each backend."""

    strategy: str
    precision: str


class PlaneChoices(PointChoices, total=False):
    """Also what BatchNorm normalises by at a point, see ``restrict`` of a backend."""

    batchnorm: str
    reference: "Problem"
    moving: np.ndarray


class Choice(NamedTuple):
    """How products are computed: a ``strategy`` by name, why and with how much memory in words, and its bytes.

    ``agreement`` holds the attributes of a ``ProductAgreement``; None where there was nothing to compare with.
    """

    strategy: str
    told: str
    peak: int
    agreement: dict[str, Any] | None


def with_standard_error(means: np.ndarray, samples: int) -> np.ndarray:
    """Return metrics (..., metric) with sd / sqrt(n) of the losses of n samples in place of the last two columns.

    Args:
        means: metrics, the last two of which are mean and mean square of the losses of single samples.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows becomes NaN, as for a single sample
        variance = np.maximum(means[..., -1] - np.square(means[..., -2]), 0)
        error = np.sqrt(variance / np.float64(samples - 1))
    return np.concatenate([means[..., :-2], error[..., None]], axis=-1)


def batchnorm_note(spec: dict, frozen: str) -> str:
    """Return what BatchNorm normalises by, for a store; ``frozen`` says whose running statistics, where it is those.

    Args:
        spec: the choices of a driver; ``batchnorm`` is ``frozen`` where it is left out.
    """
    if spec.get("batchnorm") == "batch":
        return f"batch: mean and biased variance over each chunk of {spec['batch_size']} samples"
    return frozen


class Problem(Protocol):
    """The mean loss over a fixed set of samples as a function of theta, shape (N,).

    Implementations never change the network they were made from, and evaluate in inference mode: dropout
    off, the same samples in the same order every time. Running statistics are frozen to the given buffers; or, where
    ``batchnorm`` is ``batch``, BatchNorm normalises by the statistics of each chunk of samples, through which
    derivatives pass.
    """

    layout: ParameterLayout
    samples: int
    batchnorm: str
    class_count: int | None
    """How many classes the outputs hold scores of, None where targets are no classes."""
    metric_names: tuple[str, ...]
    """``loss`` first, then ``accuracy`` where outputs are class scores of integer targets, and
    ``loss_standard_error``, sd / sqrt(n) of the losses of the n samples, where outputs are one tensor."""

    def metrics(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the metrics at theta, with the flat buffers (running statistics) that belong to it."""

    def gradient(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the gradient of the loss at theta, float64 (N,)."""

    def recomputed(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the flat buffers with BatchNorm's statistics estimated at theta, on all samples at once."""

    def sketch(self, count: int) -> None:
        """From now on let ``metrics`` have so many columns more, see ``problem.noise``."""

    def interchangeable(self) -> list[Group]:
        """Return the groups of hidden units that can change places without changing the function.

        Raises:
            LossAtlasError: it is not known for this network, or there are none.
        """

    def linearize(self, theta: np.ndarray, buffers: np.ndarray, **choices: Unpack[LocalProductChoices]) -> Hessian:
        """Return the Hessian at theta; what is reusable between products is kept in it."""

    def choose_strategy(
        self,
        theta: np.ndarray,
        buffers: np.ndarray,
        width: int,
        *,
        count: int | None = None,
        **choices: Unpack[ProductChoices],
    ) -> Choice:
        """Return how products with ``width`` vectors at once are to be computed; measured, where it is not given.

        Args:
            count: products that are ahead, if that is known.
        """

    def restrict(
        self, center: np.ndarray, directions: np.ndarray, buffers: np.ndarray, **choices: Unpack[PlaneChoices]
    ) -> Restriction:
        """Return the loss on the subspace through ``center`` spanned by the rows of ``directions``.

        What it finds at a point does not depend on the other points, bit for bit. ``choices`` say how it is computed.
        """

    def choose_evaluation(
        self,
        center: np.ndarray,
        directions: np.ndarray,
        buffers: np.ndarray,
        points: np.ndarray,
        count: int,
        **choices: Unpack[PointChoices],
    ) -> Evaluation:
        """Return how ``count`` points are to be evaluated; measured at some ``points``, where it is not given."""
