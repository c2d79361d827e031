"""What a Gauss quadrature leaves open: how much of its measure may lie to the left or to the right of a point.

By the Chebyshev-Markov-Stieltjes inequalities the share of a measure up to t is known from its moments up to 2m but for
the Christoffel function rho(t) = 1 / sum over k <= m of p_k(t)^2, p_k its orthonormal polynomials (Akhiezer, The
Classical Moment Problem, 1965, ch. 2). At a node it is the node's weight; between nodes it falls the faster, the more
steps there are.
"""

import numpy as np

PANELS = 32
"""Pieces of the way from one node to the next over which rho is integrated, an even number."""


def christoffel(at: np.ndarray, nodes: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return rho at some points, from the quadrature alone.

    The partial fractions of 1 / p_m and of p_{m-1} / p_m have the residues +-sqrt(w_j) b_j, of alternating signs, and
    b_j^2 / beta_m; with the Christoffel-Darboux formula rho(t) = (sum of +-sqrt(w_j) b_j / (t - l_j))^2 /
    (1 + sum of b_j^2 / (t - l_j)^2).

    Args:
        at: any shape.
        nodes, weights, bounds: ascending Gauss nodes l_j, their weights w_j and residual bounds b_j, (steps,).
    """
    distances = np.asarray(at)[..., None] - nodes
    distances[distances == 0] = 1e-100
    ratios = bounds / distances
    signed = np.sqrt(weights) * (-1.0) ** np.arange(len(nodes))
    return (ratios @ signed) ** 2 / (1 + (ratios**2).sum(axis=-1))


def panels(nodes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the ends of the panels between neighbouring nodes, (node - 1, PANELS + 1).

    Near a node rho is b^2 / (b^2 + d^2) times its weight at the distance d: panels grow from the width b, like sinh.
    """
    halves = np.diff(nodes)[:, None] / 2
    widths = np.maximum(np.stack([bounds[:-1], bounds[1:]]), 1e-9 * halves.T)[..., None]
    widths[widths == 0] = 1.0
    steps = np.linspace(0, 1, PANELS // 2 + 1)
    left, right = widths * np.sinh(np.arcsinh(halves / widths) * steps)
    return np.concatenate([nodes[:-1, None] + left, (nodes[1:, None] - right)[:, -2::-1]], axis=1)


def quadrature_error(nodes: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> float:
    """Return how far a probe's quadrature may be from its measure, as Wasserstein-1; the smaller of two bounds.

    For f of slope at most 1 and Ritz vectors y_j with ||H y_j - l_j y_j|| = b_j, v'f(H)v differs from the quadrature
    by at most sum_j sqrt(w_j) b_j. And the shares up to t differ by at most rho(t): its integral, where beyond the
    first and the last node rho <= w b^2 / (b^2 + d^2) at the distance d from it, for there every p_k grows outwards.

    Args:
        nodes, weights, bounds: ascending Gauss nodes, their weights and residual bounds b_j, (steps,).
    """
    ends = panels(nodes, bounds)
    middles = (ends[:, 1:] + ends[:, :-1]) / 2
    between = np.sum(np.diff(ends) * christoffel(middles, nodes, weights, bounds))
    beyond = np.pi / 2 * (weights[[0, -1]] @ bounds[[0, -1]])
    return float(min(np.sqrt(weights) @ bounds, between + beyond))
