"""Accuracy and the user's own metrics on a plane, a panel each, with the projected path."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossatlas.render.figures.contour import draw_path, label_axes, mark_ends, mark_evaluated, mark_nonfinite
from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import COLORMAP, noted

LEVELS = 16

METRICS = FigureSpec(
    kind="metrics",
    needs=("metrics",),
    caption="Accuracy and the user's own metrics on the plane, with the projected path.",
    details="They are means over the evaluation subset of the training set. Grey, hatched cells are NaN or infinite.",
)


def metrics_figure(landscape: xr.Dataset, choices: dict, title: str = "", split: str = "train") -> Figure:
    """Return filled contours of accuracy, where there is one, and of the user's own metrics.

    Args:
        choices: ``metrics`` names arrays (split, y, x) of the store.
    """
    names = [*(["accuracy"] if "accuracy" in landscape else []), *choices["metrics"]]
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    size = {"figsize": (6.4 * columns, 4.6 * rows), "layout": "constrained"}
    figure, grid = plt.subplots(rows, columns, **size, squeeze=False)
    for axes, name in zip(grid.ravel(), names, strict=False):
        _draw(axes, landscape, name, split)
    for axes in grid.ravel()[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(noted(title, landscape))
    return figure


def _draw(axes: Axes, landscape: xr.Dataset, name: str, split: str) -> None:
    values, loss = (landscape[array].sel(split=split).values for array in (name, "loss"))
    values = np.where(np.isnan(loss), np.nan, values)  # outputs that are NaN have no place of the largest one
    x, y = landscape["x"].values, landscape["y"].values
    mark_nonfinite(axes, values)
    finite = values[np.isfinite(values)]
    if finite.size and np.ptp(finite) > 0:
        levels = MaxNLocator(LEVELS).tick_values(finite.min(), finite.max())
        filled = axes.contourf(x, y, np.where(np.isfinite(values), values, np.nan), levels=levels, cmap=COLORMAP)
        axes.figure.colorbar(filled, ax=axes, pad=0.02, fraction=0.05, label=f"{split} {name}")
    elif finite.size:
        known = np.where(np.isfinite(values), 0.0, np.nan)
        axes.contourf(x, y, known, levels=[-1, 1], colors=[plt.colormaps[COLORMAP](0.0)])
        name += f": {finite[0]:.4g} wherever it is finite"
    mark_evaluated(axes, landscape)
    mark_ends(axes, landscape)
    draw_path(axes, landscape)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    label_axes(axes, landscape)
    axes.set_title(name)
