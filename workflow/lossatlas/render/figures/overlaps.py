"""Cosines of directions with each other, and their angles to Gaussian vectors (Li et al. 2024, Figs. 5 and 9)."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import CHOICES, PATH_COLOR, TEST_COLOR, plain

WRITTEN = 14
"""More directions than these have no numbers in their cells."""

SHOWN = 20_000
"""More angles than these are not drawn one by one."""

OVERLAP = FigureSpec(
    kind="overlap",
    needs=("overlaps",),
    log="overlaps",
    caption="Left: cosines between directions. Right: angles between each direction and Gaussian vectors; boxes are "
    "from quartile to quartile, bars reach to the extremes. Grey is where chance has 95 % of them: 90 degrees plus and "
    "minus two standard deviations, 1 / sqrt(parameters) each.",
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
    """Draw the angles of each direction on a row of its own, below a box from quartile to quartile."""
    angle, names = np.degrees(np.arccos(overlaps["gaussian_cosine"].values)), overlaps["direction"].values
    spread = np.degrees(overlaps.attrs["parameters"] ** -0.5)
    rows = np.arange(len(angle))
    chance = {"color": "0.9", "zorder": 0}
    axes.axvspan(90 - 2 * spread, 90 + 2 * spread, label="95 % of what chance expects", **chance)
    axes.axvline(90, color="0.5", linewidth=0.8, linestyle=":")
    looks = {"medianprops": {"color": PATH_COLOR}, "showfliers": False, "whis": (0, 100), "widths": 0.45}
    axes.boxplot(angle.T, orientation="horizontal", positions=rows - 0.12, manage_ticks=False, **looks)
    dots = {"color": TEST_COLOR, "markersize": 4, "alpha": 0.5, "linestyle": "none", "marker": "|"}
    if angle.size <= SHOWN:
        axes.plot(angle.ravel(), np.repeat(rows + 0.3, angle.shape[1]), **dots, label="one Gaussian vector each")
    axes.set_yticks(rows, [plain(name) for name in names], fontsize=8)
    axes.set_ylim(len(angle) - 0.4, -0.6)
    axes.set_xlabel(f"angle to {angle.shape[1]} Gaussian vectors (degrees)")
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
