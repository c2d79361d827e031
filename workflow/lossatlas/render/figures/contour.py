"""The plane from above: contours of the loss and the projected path."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import LossScale, loss_scale
from lossatlas.render.style import (
    CHOICES,
    COLORMAP,
    NONFINITE_COLOR,
    NOTE,
    NOW_MARKER,
    PATH_COLOR,
    OtherPath,
    axis_labels,
    interpolated,
    nonfinite_note,
    noted,
    other_paths,
)

CONTOUR = FigureSpec(
    kind="contour",
    needs=("landscape",),
    rule="figures",
    log="planes",
    caption="The loss on the plane from above, with the projected path, and in white the trained curve between two "
    "minima where the plane holds one.",
    details="It is the mean over the evaluation subset of the training set. Grey, hatched cells are NaN or infinite. "
    "Where there are dots, they are the points that were evaluated; the rest is interpolated.",
)


def draw_contours(axes: Axes, landscape: xr.Dataset, scale: LossScale, choices: dict, split: str = "train") -> None:
    """Draw filled contours with lines; points that are NaN or inf stay grey, hatched and counted."""
    x, y = landscape["x"].values, landscape["y"].values
    heights = scale(landscape["loss"].sel(split=split).values)
    mark_nonfinite(axes, heights)
    if np.isfinite(heights).any():
        levels = scale.levels(choices["levels"] + 1)
        filled = axes.contourf(
            x, y, heights, levels=levels, cmap=COLORMAP, extend="max" if scale.clipped else "neither"
        )
        axes.contour(x, y, heights, levels=levels[1:-1], colors="white", linewidths=0.4, alpha=0.6)
        positions, texts = scale.ticks()
        bar = axes.figure.colorbar(filled, ax=axes, pad=0.02, fraction=0.05, ticks=positions)
        bar.ax.set_yticklabels(texts)
        bar.set_label(f"{split} {scale.label}")
    mark_evaluated(axes, landscape)
    mark_ends(axes, landscape)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    label_axes(axes, landscape)


def label_axes(axes: Axes, landscape: xr.Dataset) -> None:
    """Write direction and share of the path's variance at both axes."""
    x_label, y_label = axis_labels(landscape)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label.replace(" (", "\n("))  # the height is short


def mark_ends(axes: Axes, landscape: xr.Dataset) -> None:
    """Mark and name the points that the axes lead to, where these are differences, and draw the curve through them."""
    attrs = landscape.attrs
    if "connection" in attrs:
        outlined = [withStroke(linewidth=3, foreground="black")]
        axes.plot(*np.transpose(attrs["connection"]), color="white", linewidth=1.6, path_effects=outlined, zorder=2.5)
    for name, place in zip(attrs.get("end_names", []), attrs.get("end_points", []), strict=True):
        outlined = [withStroke(linewidth=2, foreground="white")]
        axes.plot(*place, "D", color="white", markeredgecolor="black", markersize=6, zorder=3)
        look = {"textcoords": "offset points", "fontsize": 8, "path_effects": outlined, "clip_on": True, "zorder": 3}
        right = place[0] > landscape["x"].values.mean()  # names grow towards where there is room
        axes.annotate(name, place, (-7 if right else 7, 5), ha="right" if right else "left", **look)


def mark_evaluated(axes: Axes, landscape: xr.Dataset) -> None:
    """Dot the points that are evaluated, where others are interpolated."""
    if interpolated(landscape):
        rows, columns = np.nonzero(landscape["evaluated"].values)
        at = landscape["x"].values[columns], landscape["y"].values[rows]
        looks = {"markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.3}
        axes.plot(*at, "o", markersize=1.9, alpha=0.8, zorder=1.5, **looks)


def mark_nonfinite(axes: Axes, heights: np.ndarray) -> None:
    """Say how many points are NaN or inf, and hatch the ground that shows through there."""
    if np.isfinite(heights).all():
        return
    axes.set_facecolor(NONFINITE_COLOR)
    everywhere = {"transform": axes.transAxes, "facecolor": "none", "edgecolor": "#888888", "hatch": "xx"}
    axes.add_patch(Rectangle((0, 0), 1, 1, linewidth=0, zorder=0, **everywhere))
    axes.text(0.02, 0.98, nonfinite_note(heights, "hatched"), transform=axes.transAxes, va="top", **NOTE)


def other_lines(axes: Axes, paths: list[OtherPath], animated: bool = False) -> list[Line2D]:
    """Add an empty path for each other run, with a square at its newest point."""
    looks = {"marker": "s", "markersize": 5, "markeredgecolor": "black", "markeredgewidth": 0.8, "linewidth": 1.4}
    return [
        axes.plot([], [], color=path.color, markevery=[-1], animated=animated, label=path.run, **looks)[0]
        for path in paths
    ]


def path_lines(axes: Axes, animated: bool = False) -> tuple[Line2D, Line2D]:
    """Add an empty path and an empty marker of the current iteration."""
    looks = {"color": PATH_COLOR, "markersize": 2, "linewidth": 1.4, "label": "path, projected"}
    (path,) = axes.plot([], [], "-o", animated=animated, **looks)
    (now,) = axes.plot([], [], animated=animated, **NOW_MARKER)
    return path, now


def draw_path(axes: Axes, landscape: xr.Dataset) -> Line2D:
    """Draw the whole projected path and mark its last iteration; return the path."""
    (path, now), (x, y) = path_lines(axes), (landscape[f"path_{axis}"].values for axis in "xy")
    path.set_data(x, y)
    now.set_data(x[-1:], y[-1:])
    return path


def contour_figure(landscape: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the contour plot with the whole path."""
    figure, axes = plt.subplots(figsize=(7.2, 5.4), layout="constrained")
    draw_contours(axes, landscape, loss_scale(landscape, choices), choices)
    path = draw_path(axes, landscape)
    paths = other_paths(landscape)
    others = other_lines(axes, paths)
    for line, other in zip(others, paths, strict=True):
        line.set_data(other.x, other.y)
        path.set_label("this run")
    axes.set_title(noted(title, landscape))
    axes.legend(handles=[path, *others], loc="upper right")
    return figure
