"""Scaling directions to the norms of theta (Li et al. 2018; "Norm", "LayNorm", "FilNorm" of Li et al. 2024)."""

from collections.abc import Iterator

import numpy as np

from lossatlas.layout import ParameterLayout

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

    ``how`` is ``none``; ``model`` (one factor, d ||theta|| / ||d||); ``layer`` (one factor per tensor); or
    ``filter`` (one factor per filter, d_ij ||theta_ij|| / ||d_ij||, GradVis eq. 2). A slice of zeros stays
    zero. Biases and norm parameters that were not dropped count as one filter per tensor.
    """
    out = np.array(direction, dtype=np.float64)
    theta = np.asarray(theta, dtype=np.float64)
    if how == "none":
        return out
    if how == "model":
        return out * _ratio(theta, out, axes=None)
    for d, t, axes in _slices(out, theta, layout, per_filter=how == "filter"):
        d *= _ratio(t, d, axes)
    return out


def _slices(
    direction: np.ndarray, theta: np.ndarray, layout: ParameterLayout, per_filter: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, ...] | None]]:
    """Yield views of both vectors, tensor by tensor, with the axes that one norm runs over."""
    for slot in layout:
        d, t = direction[slot.slice].reshape(slot.shape), theta[slot.slice].reshape(slot.shape)
        axes = None
        if per_filter and slot.filter_axis is not None:
            axes = tuple(axis for axis in range(len(slot.shape)) if axis != slot.filter_axis)
        yield d, t, axes


def _ratio(theta: np.ndarray, direction: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """Return ||theta|| / ||direction|| over ``axes`` (None: all), 0 where the direction is zero."""
    above = np.sqrt(np.sum(np.square(theta), axis=axes, keepdims=True))
    below = np.sqrt(np.sum(np.square(direction), axis=axes, keepdims=True))
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio.reshape(()) if axes is None else ratio
