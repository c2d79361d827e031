"""Cosines of directions with each other, and their angles to Gaussian vectors (Li et al. 2024, Figs. 5 and 9)."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import CHOICES, plain

WRITTEN = 14
"""More directions than these have no numbers in their cells."""

OVERLAP = FigureSpec(
    kind="overlap",
    needs=("overlaps",),
    log="overlaps",
    caption="Left: cosines between directions. Right: angles between each direction and Gaussian vectors; dashed is "
    "chance, a normal distribution about 90 degrees whose standard deviation is 1 / sqrt(parameters).",
)


def overlap_figure(overlaps: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the matrix of cosines and, where there are Gaussian vectors, the distributions of angles to them."""
    several, count = overlaps.sizes.get("gaussian", 0) > 1, overlaps.sizes["direction"]
    side = min(4.0 + 0.3 * count, 11.0)
    size = {"figsize": (side + 1 + 5.5 * several, side), "layout": "constrained"}
    figure, panels = plt.subplots(1, 1 + several, **size, squeeze=False, width_ratios=[side + 1, 5.5][: 1 + several])
    _draw_cosines(panels[0, 0], overlaps)
    if several:
        _draw_gaussians(panels[0, 1], overlaps)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_cosines(axes: Axes, overlaps: xr.Dataset) -> None:
    cosine, names = overlaps["cosine"].values, [plain(name) for name in overlaps["direction"].values]
    drawn = axes.imshow(cosine, cmap="RdBu_r", vmin=-1, vmax=1)
    for i, j in np.ndindex(cosine.shape) if len(names) <= WRITTEN else ():
        color = "white" if abs(cosine[i, j]) > 0.6 else "black"
        axes.text(j, i, f"{cosine[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.figure.colorbar(drawn, ax=axes, label="cosine", shrink=0.8)


def _draw_gaussians(axes: Axes, overlaps: xr.Dataset) -> None:
    """Draw angles as steps, all on the same bins; the count of what chance expects is dashed."""
    angle = np.degrees(np.arccos(overlaps["gaussian_cosine"].values))
    spread = np.degrees(overlaps.attrs["parameters"] ** -0.5)
    reach = max(np.abs(angle - 90).max(), 3 * spread)
    bins = 90 + np.linspace(-reach, reach, 25)
    palette = plt.colormaps["viridis"]
    for k, one in enumerate(angle):
        color = palette(k / max(len(angle) - 1, 1))
        label = plain(overlaps["direction"].values[k]) if len(angle) <= WRITTEN else None
        axes.hist(one, bins, histtype="step", color=color, label=label)
    fine = np.linspace(bins[0], bins[-1], 200)
    density = np.exp(-0.5 * np.square((fine - 90) / spread)) / (spread * np.sqrt(2 * np.pi))
    axes.plot(fine, density * angle.shape[1] * (bins[1] - bins[0]), color="0.3", linestyle="--", label="chance")
    axes.set_xlabel("angle to Gaussian vectors (degrees)")
    axes.set_ylabel(f"count of {angle.shape[1]}")
    axes.legend(fontsize=7, frameon=False)
