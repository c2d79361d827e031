"""First and second derivative of the loss along a curve (Li et al. 2024, Eq. 1): b = d'g and a = d'Hd."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossatlas.errors import LossAtlasError, NonFiniteError
from lossatlas.io.arrays import Array
from lossatlas.problem import Problem, choices_of
from lossatlas.problem.protocol import Place
from lossatlas.problem.readiness import Remembered, choose_products

DERIVATIVES = {
    "slope": ("first derivative d'g of the loss along the curve, NaN where none was asked for", "per unit of alpha"),
    "curvature": ("second derivative d'Hd of the loss along the curve, likewise", "per unit of alpha squared"),
}
"""Arrays (curve, split, alpha): what they hold, and their units."""

SCHEMA = tuple(
    Array(name, ("curve", "split", "alpha"), text, units, fill_value=np.nan)
    for name, (text, units) in DERIVATIVES.items()
)


def check(spec: dict, moves: bool, where: str) -> None:
    """Refuse derivatives of curves along which running statistics move: they are no derivatives at frozen ones.

    Raises:
        LossAtlasError: names the key.
    """
    if "second_order" in spec and moves:
        raise LossAtlasError(
            f"{where}.second_order: this network has BatchNorm, whose running statistics move along the curve with "
            f"batchnorm: {spec['batchnorm']}; choose 'frozen'"
        )


def choose(problem: Problem, place: Place, count: int, spec: dict, remembered: Remembered | None) -> dict[str, Any]:
    """Choose how Hessian products are computed; return what a store says of it.

    Args:
        place: where the first curve runs.
        count: products that are ahead.
        spec: the config's ``second_order``.
    """
    choice = choose_products(problem, (place.center, place.buffers), 1, spec, remembered, count)
    return {"strategy": choice.strategy, "strategy_note": choice.told, "agreement": choice.agreement}


def derivatives(problem: Problem, place: Place, spec: dict) -> Callable[[float], np.ndarray]:
    """Return the function from a position on a curve to first and second derivative, (2,).

    They are NaN where the loss or its gradient is not finite.

    Args:
        place: where the curve runs.
        spec: how products are computed, the strategy among it.
    """
    (direction,), choices = place.directions, choices_of(spec)

    def at(alpha: float) -> np.ndarray:
        theta = place.center + alpha * direction
        try:
            product = problem.linearize(theta, place.buffers, **choices).matvec(direction)
        except NonFiniteError:
            return np.full(2, np.nan)
        return np.array([direction @ problem.gradient(theta, place.buffers), direction @ product])

    return at
