"""Scaling directions to the norms of theta: "Norm", "LayNorm" and "FilNorm" of Li et al. 2024 (appendix A.3)."""

from collections import defaultdict

import numpy as np

from lossatlas.io.layout import ParameterLayout

IGNORED_KINDS = {"bias": ("bias",), "norm": ("norm-scale", "norm-shift")}


def drop(direction: np.ndarray, layout: ParameterLayout, ignore: list[str]) -> np.ndarray:
    """Return a copy of ``direction`` (N,) that is zero on the ignored kinds (``bias``, ``norm``)."""
    out = np.array(direction, dtype=np.float64)
    kinds = {kind for name in ignore for kind in IGNORED_KINDS[name]}
    for slot in layout:
        if slot.kind in kinds:
            out[slot.slice] = 0.0
    return out


def normalize(direction: np.ndarray, theta: np.ndarray, layout: ParameterLayout, how: str) -> np.ndarray:
    """Return ``direction`` scaled to the norms of ``theta``, both of shape (N,).

    ``how`` is ``none``; ``model`` (Norm: one factor, ||theta|| / ||d|| over all parameters); ``layer`` (LayNorm: one
    factor for all tensors of a layer together, weights and biases; a layer is the module that owns them); or
    ``filter`` (FilNorm, Li et al. 2018: one factor per filter, ||theta_ij|| / ||d_ij||; GradVis eq. 2). Biases and norm
    parameters that were not dropped count as one filter per tensor. A tensor or filter of zeros stays zero, and plays
    no part in the norm of its layer; so biases that were dropped leave the weights of theta alone to be compared with.
    """
    out = np.array(direction, dtype=np.float64)
    theta = np.asarray(theta, dtype=np.float64)
    if how == "model":
        return out * _ratio(theta, out)
    if how == "layer":
        for parts in _layers(out, layout):
            above, below = (sum(np.square(vector[part]).sum() for part in parts) for vector in (theta, out))
            for part in parts:
                out[part] *= np.sqrt(above / below)
    if how == "filter":
        for slot in layout:
            d, t = (vector[slot.slice].reshape(slot.shape) for vector in (out, theta))
            counted = () if slot.filter_axis is None else np.atleast_1d(slot.filter_axis)
            axes = tuple(axis for axis in range(d.ndim) if axis not in counted) if len(counted) else None
            d *= _ratio(t, d, axes)
    return out


def _layers(direction: np.ndarray, layout: ParameterLayout) -> list[list[slice]]:
    """Return where the tensors of each layer lie, those left out in which the direction is zero."""
    owned = defaultdict(list)
    for slot in layout:
        if direction[slot.slice].any():
            owned[slot.name.rpartition(".")[0]].append(slot.slice)
    return list(owned.values())


def _ratio(theta: np.ndarray, direction: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """Return ||theta|| / ||direction|| over ``axes`` (None: all), 0 where the direction is zero."""
    above = np.sqrt(np.sum(np.square(theta), axis=axes, keepdims=True))
    below = np.sqrt(np.sum(np.square(direction), axis=axes, keepdims=True))
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio.reshape(()) if axes is None else ratio
