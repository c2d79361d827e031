"""Where a plane is convex: |lambda_min / lambda_max| with the loss's contours and the path (Li et al. 2018, sec. 6)."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lossatlas.render.figures.contour import draw_path, label_axes, mark_nonfinite
from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import LossScale, loss_scale
from lossatlas.render.style import CHOICES, COLORMAP

LARGEST_RATIO = 1.0
"""Ratios above are drawn in one colour: the negative curvature is the larger one."""

CURVATURE = FigureSpec(
    kind="curvature",
    needs=("curvature", "landscape"),
    title="{run}: curvature on plane {plane}",
    caption="|λ_min / λ_max| of the Hessian: near 0 the surface is convex, larger values tell of negative "
    "curvature that the plane may hide. Lines are contours of the loss, with the projected path.",
    details="Crosses mark eigenpairs that have not converged; grey, hatched cells are NaN or infinite.",
)


def curvature_figure(curvature: xr.Dataset, landscape: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the map of ratios as cells, one for each grid point, under contours of the plane's loss and the path.

    Pairs that have not converged are crossed; points that are NaN stay grey, hatched and counted.
    """
    figure, axes = plt.subplots(figsize=(7.2, 5.6), layout="constrained")
    x, y, values = curvature["x"].values, curvature["y"].values, curvature["ratio"].values
    known = ~np.isnan(values)
    mark_nonfinite(axes, np.where(known, 0.0, np.nan))
    highest = float(values[known].max()) if known.any() else 1.0
    mesh = axes.pcolormesh(
        *(x, y, np.ma.masked_invalid(np.minimum(values, 1e300))), cmap=COLORMAP, vmin=0, shading="nearest",
        vmax=min(LARGEST_RATIO, highest) or 1.0, rasterized=True,
    )  # fmt: skip
    bar = figure.colorbar(
        mesh, ax=axes, pad=0.02, fraction=0.05, extend="max" if highest > LARGEST_RATIO else "neither"
    )
    bar.set_label(r"$|\lambda_\min\,/\,\lambda_\max|$   (0: convex)")
    _draw_loss(axes, landscape, loss_scale(landscape, choices), choices["levels"])
    handles = [draw_path(axes, landscape), *_mark_unconverged(axes, curvature)]
    for axis, at in ((axes.set_xlim, x), (axes.set_ylim, y)):
        half = (at[1] - at[0]) / 2
        axis(at[0] - half, at[-1] + half)
    label_axes(axes, landscape)
    axes.set_title(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_loss(axes: Axes, landscape: xr.Dataset, scale: LossScale, count: int) -> None:
    """Draw the contours of the loss that the contour plot has; every third one says its loss."""
    heights = scale(landscape["loss"].sel(split="train").values)
    if not np.isfinite(heights).any():
        return
    levels, outlined = scale.levels(count + 1)[1:-1], [withStroke(linewidth=2, foreground="black")]
    drawn = {"levels": levels, "colors": "white", "linewidths": 0.9, "linestyles": "solid"}
    lines = axes.contour(landscape["x"].values, landscape["y"].values, heights, path_effects=outlined, **drawn)
    for text in axes.clabel(lines, levels[::3], fmt=lambda height: f"{scale.loss(height):.2g}", fontsize=8):
        text.set_path_effects(outlined)


def _mark_unconverged(axes: Axes, curvature: xr.Dataset) -> list:
    """Cross the points where an eigenpair has not converged; return what the legend says about them."""
    converged = (curvature["largest_converged"] * curvature["smallest_converged"]).values
    rows, columns = np.nonzero(converged == 0)
    if not len(rows):
        return []
    label = f"not converged ({len(rows)} of {converged.size} points)"
    looks = {"color": "black", "markersize": 6, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    return axes.plot(curvature["x"].values[columns], curvature["y"].values[rows], "x", label=label, **looks)
