"""What problems of all frameworks share: how they are made, their matrices, and their restrictions to subspaces."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import numpy as np

from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import BATCHNORM, check_one_of
from lossatlas.problem.noise import random_signs
from lossatlas.problem.protocol import Hessian, LocalProductChoices, Place, Problem, Restriction
from lossatlas.problem.units import Group

Function = Callable[[Any, Any], Any]
"""From outputs and targets of some samples to a mean over them."""


class ProblemBase(ABC):
    """A ``Problem`` on one framework; see there. Samples are cut into chunks once and stay on the device.

    Args:
        network: a ``FlatNetwork`` of the framework, which problems share.
        batch_size: samples per chunk; a last one that is smaller weighs less.
        batchnorm: ``frozen``, BatchNorm normalises by the buffers that belong to theta, or ``batch``, by mean and
            variance over the samples of each chunk: another loss, in which the chunks matter. Buffers are then not
            read. Networks without BatchNorm have one loss.
        metrics: more to evaluate besides, by name.

    Raises:
        LossAtlasError: the network does not accept the samples, or loss or metrics do not accept its outputs.
    """

    loss: Function
    batchnorm: str
    MATRIX: ClassVar[type]
    """Its ``CurvatureMatrix``."""
    HESSIAN: ClassVar[Callable[..., Hessian]]
    """Its ``HessianBase``."""
    RECOMPUTED: ClassVar[Callable[..., Restriction]]
    INTERPOLATED: ClassVar[Callable[..., Restriction]]
    """Its restrictions along which running statistics move."""

    def __init__(
        self,
        network: Any,
        loss: Function,
        split: Split,
        batch_size: int,
        batchnorm: str = "frozen",
        metrics: dict[str, Function] | None = None,
    ):
        check_one_of("batchnorm", batchnorm, BATCHNORM)
        self.network, self.layout, self.samples, self.own = network, network.layout, len(split), metrics or {}
        self._matrices: dict[tuple, Any] = {}
        self.signs: Any = None
        self._take(loss, split, batch_size, batchnorm)

    @abstractmethod
    def _take(self, loss: Function, split: Split, batch_size: int, batchnorm: str) -> None:
        """Try loss and metrics on the samples, and cut these into chunks."""

    def sketch(self, count: int) -> None:
        """From now on let ``metrics``, here and of restrictions, have ``count`` more columns at its end.

        Each is a sum over the samples of their losses with random signs, as large as the standard error of the mean
        (``problem.noise``): differences of it between two points are as large as the standard error of the difference,
        in which cancels what the losses have in common.
        """
        self.signs = self._signs(random_signs(self.samples, count))

    @abstractmethod
    def _signs(self, signs: np.ndarray) -> Any:
        """Return signs (sample, column), float64, on the device."""

    @property
    @abstractmethod
    def has_batchnorm(self) -> bool:
        """Whether the network has BatchNorm whose statistics can be estimated."""

    def matrix(self, operator: str = "hessian", parameters: tuple[str, ...] = ("*",)) -> Any:
        """Return the matrix, whose traced graphs serve every theta."""
        key = (operator, tuple(parameters))
        if key not in self._matrices:
            chosen = self.layout.select(parameters)
            self._matrices[key] = self.MATRIX(self.network, self.loss, operator, chosen, self.batchnorm)
        return self._matrices[key]

    def interchangeable(self) -> list[Group]:
        """Return the groups of hidden units that can change places, see ``Problem``."""
        raise LossAtlasError("align: networks of this backend cannot be aligned; leave it out")

    def linearize(self, theta: np.ndarray, buffers: np.ndarray, **choices: Unpack[LocalProductChoices]) -> Hessian:
        """Return the Hessian at theta; ``choices`` are those of ``HessianBase``."""
        return self.HESSIAN(self, theta, buffers, **choices)

    def restrict(
        self,
        center: np.ndarray,
        directions: np.ndarray,
        buffers: np.ndarray,
        strategy: str = "",
        precision: str = "full",
        batchnorm: str = "frozen",
        reference: Problem | None = None,
        moving: np.ndarray | None = None,
    ) -> Restriction:
        """Return the loss on center + span(directions), with everything on the device.

        Args:
            strategy: left out it is the plainest one.
            batchnorm: ``frozen``, the given buffers hold at every point; ``recompute``, each point has the statistics
                of its own, estimated on the samples of ``reference`` (by default of this problem); or
                ``interpolate``, buffers move with the coefficients along ``moving`` (k, buffer), variances clipped.

        Raises:
            LossAtlasError: there is no such strategy or precision, or the network does not allow the precision.
        """
        place = Place(center, directions, buffers)
        if batchnorm == "interpolate":
            return self.INTERPOLATED(self, place, moving)
        if batchnorm == "recompute" and self.has_batchnorm:
            return self.RECOMPUTED(self, place, reference or self)
        return self._restrict(place, strategy, precision, batchnorm)

    @abstractmethod
    def _restrict(self, place: Place, strategy: str, precision: str, batchnorm: str) -> Restriction:
        """Return the loss on a subspace all over which the buffers hold."""
