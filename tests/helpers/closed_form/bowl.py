"""A loss of 132 parameters in closed form.

L(theta) = 1 + sum_i c_i (theta_i - m_i)^2 / 2 + a (1 - cos(k theta_i)), whose Hessian is diagonal.
"""

import numpy as np

N = 132
MINIMUM = np.random.default_rng(0).standard_normal(N)
CURVATURE = np.geomspace(0.1, 8, N)
HEIGHT, FREQUENCY = 0.3, 2.0


def loss(theta: np.ndarray) -> float:
    rise = CURVATURE * np.square(theta - MINIMUM) / 2 + HEIGHT * (1 - np.cos(FREQUENCY * theta))
    return 1 + rise.sum()


def slope(theta: np.ndarray) -> np.ndarray:
    """Return the gradient."""
    return CURVATURE * (theta - MINIMUM) + HEIGHT * FREQUENCY * np.sin(FREQUENCY * theta)


def second(theta: np.ndarray) -> np.ndarray:
    """Return the diagonal of the Hessian."""
    return CURVATURE + HEIGHT * FREQUENCY**2 * np.cos(FREQUENCY * theta)
