"""How well a way of computing agreed with the plain one; stores hold it."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ProductAgreement:
    """What was checked of a strategy of Hessian products.

    All numbers are relative. ``difference`` is that from ``against`` of ``vectors`` products over ``samples`` samples,
    by Euclidean norm; ``rounding`` is what was measured of it, None where nothing was; ``asymmetry`` is
    |u'Hv - v'Hu|; ``central_differences`` is the distance of plain products from differences of the gradient.
    """

    against: str
    samples: int
    vectors: int
    difference: float
    rounding: float | None
    asymmetry: float
    central_differences: float | None

    @property
    def attributes(self) -> dict[str, Any]:
        """The record as a store keeps it; NaN, where there was nothing to compare with, becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


class PointAgreement(NamedTuple):
    """What was checked of a strategy that evaluates points.

    ``points`` and ``samples`` count what was compared. ``difference`` is the largest one from plain evaluation, and
    ``rounding`` the largest that was measured where samples, parameters and buffers change by theirs; both are relative
    (of outputs to a sample's largest one in PyTorch, of losses to themselves in TensorFlow). ``reason`` says why they
    do not agree, and is empty where they do.
    """

    strategy: str
    points: int
    samples: int
    difference: float
    rounding: float
    reason: str = ""
