"""Eigenvalues whose weight is known: every probe's run has found them, so that each has weight 1 / N (deflation).

The weight of an isolated eigenvalue in a random probe is chi-squared with one degree of freedom over N, and a few such
weights make up most of the variance of traces and densities. Putting 1 / N instead costs no product (implicit
deflation: Bhattacharjee, Jayaram, Musco, Musco and Ray 2025; Chen and Hallman 2023).
"""

import numpy as np

CONVERGED = 1e-18
"""Largest last component of a Ritz vector of T at which its node is an eigenvalue, and one that is found whole.

A run sees one vector of each eigenspace, and another one only through rounding, which grows as fast as the last
component |s_mi| falls (Paige 1971): a second copy is there before it has fallen to the products' relative noise. The
bound is three orders below that of float64 products; where noise is larger, copies appear earlier.
"""

NOISE = 1e-6
"""Distance of one eigenvalue's nodes, of copies and of several probes, relative to the largest magnitude of a node."""


def last_components(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return log10 |s_mi|, of the last components of the eigenvectors of a probe's T, far below rounding.

    They follow from s_1i s_mi = product of all beta / product over k of (l_i - l_k), and have norm 1.

    Args:
        nodes, weights: distinct Gauss nodes and squared first components s_1i^2, (steps,).
    """
    distances = np.abs(nodes[:, None] - nodes)
    np.fill_diagonal(distances, 1.0)
    with np.errstate(divide="ignore"):  # a weight that has underflown, or equal nodes: not known to be small
        logs = -0.5 * np.log10(weights) - np.log10(distances).sum(axis=1)
    logs -= logs[np.isfinite(logs)].max(initial=-np.inf)
    return logs - 0.5 * np.log10((10.0 ** (2 * logs[np.isfinite(logs)])).sum())


def outliers(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return which nodes of which probes are eigenvalues that every probe has found equally often, (probe, node).

    Nodes closer than ``NOISE`` belong together: a multiple eigenvalue has as many nodes. If one of them has not
    converged, or probes do not agree on their number, none is an outlier.

    Args:
        nodes, weights: Gauss nodes, NaN where a run was shorter, and their weights, (probe, node).
    """
    known = np.isfinite(nodes)
    converged = np.zeros(nodes.shape, bool)
    for mask, own, one, weight in zip(converged, known, nodes, weights, strict=True):
        mask[own] = last_components(one[own], weight[own]) <= np.log10(CONVERGED)
    order = np.argsort(nodes[known], kind="stable")
    values, probe = nodes[known][order], np.nonzero(known)[0][order]
    group = np.cumsum(np.diff(values, prepend=values[:1]) > NOISE * np.abs(values).max(initial=0.0))
    found = np.zeros((len(values), len(nodes)), int)  # how many nodes of each probe a group has
    np.add.at(found, (group, probe), 1)
    whole = (found == found[:, :1]).all(axis=1)
    np.logical_and.at(whole, group, converged[known][order])
    result = np.zeros(nodes.shape, bool)
    result[known] = whole[group][np.argsort(order)]
    return result


def deflated(weights: np.ndarray, of_outliers: np.ndarray, size: int) -> np.ndarray:
    """Return weights of which an outlier's is 1 / N and the others of each probe keep their ratios; their sum is 1.

    Without outliers these are the given ones.

    Args:
        weights: (probe, node), zero where there is no node.
        of_outliers: from ``outliers``.
        size: N.
    """
    if not of_outliers.any():
        return weights
    rest = np.where(of_outliers, 0.0, weights)
    known, total = of_outliers.sum(axis=1, keepdims=True) / size, rest.sum(axis=1, keepdims=True)
    return np.where(of_outliers, 1 / size, rest * (1 - known) / np.where(total > 0, total, 1.0))
