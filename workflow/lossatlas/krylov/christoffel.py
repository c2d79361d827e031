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


def panels(nodes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return panels before the first node, between neighbours, and after the last one.

    Near a node rho is its weight times b^2 / (b^2 + d^2) at the distance d: between nodes panels grow from the width b,
    like sinh, and beyond them like tan, to infinity.

    Returns:
        Their ends (node + 1, PANELS + 1), and a point within each (node + 1, PANELS).
    """
    half, whole = np.linspace(0, 1, PANELS // 2 + 1), np.linspace(0, np.pi / 2, 2 * PANELS + 1)
    gaps = np.diff(nodes)[:, None] / 2
    widths = np.maximum(np.stack([bounds[:-1], bounds[1:]])[..., None], 1e-9 * gaps)
    widths[widths == 0] = 1.0
    left, right = widths * np.sinh(np.arcsinh(gaps / widths) * half)
    between = np.concatenate([nodes[:-1, None] + left, (nodes[1:, None] - right)[:, -2::-1]], axis=1)
    away = np.append(np.tan(whole[:-1]), np.inf)
    low, high = nodes[0] - max(bounds[0], 1e-300) * away[::-1], nodes[-1] + max(bounds[-1], 1e-300) * away
    ends = np.vstack([low[::2], between, high[::2]])
    return ends, np.vstack([low[1::2], (between[:, 1:] + between[:, :-1]) / 2, high[1::2]])


def quadrature_error(nodes: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> float:
    """Return how far a probe's quadrature may be from its measure, as Wasserstein-1; the smaller of two bounds.

    For f of slope at most 1 and Ritz vectors y_j with ||H y_j - l_j y_j|| = b_j, v'f(H)v differs from the quadrature
    by at most sum_j sqrt(w_j) b_j. And the shares up to t differ by at most rho(t): its integral, where beyond the
    first and the last node rho <= w b^2 / (b^2 + d^2) at the distance d from it, for there every p_k grows outwards.

    Args:
        nodes, weights, bounds: ascending Gauss nodes, their weights and residual bounds b_j, (steps,).
    """
    ends, within = (one[1:-1] for one in panels(nodes, bounds))
    between = np.sum(np.diff(ends) * christoffel(within, nodes, weights, bounds))
    beyond = np.pi / 2 * (weights[[0, -1]] @ bounds[[0, -1]])
    return float(min(np.sqrt(weights) @ bounds, between + beyond))
