"""The plane as a surface in three dimensions, with the path at the loss of its projection."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3D

from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import LossScale, loss_scale
from lossatlas.render.style import (
    CHOICES,
    COLORMAP,
    NOTE,
    NOW_MARKER,
    PATH_COLOR,
    OtherPath,
    axis_labels,
    nonfinite_note,
    noted,
    other_paths,
)

SURFACE = FigureSpec(
    kind="surface",
    needs=("landscape",),
    rule="figures",
    caption="The loss on the plane as a surface; the path lies at the loss of its projection.",
    details="That is not the loss of the checkpoints themselves.",
)


def draw_surface(axes: Axes3D, landscape: xr.Dataset, scale: LossScale, choices: dict, split: str = "train") -> None:
    """Draw the surface; points that are NaN or inf are holes, and counted."""
    x, y = np.meshgrid(landscape["x"].values, landscape["y"].values)
    heights = scale(landscape["loss"].sel(split=split).values)
    low, high = scale.limits
    colors = {"cmap": COLORMAP, "vmin": low, "vmax": high}
    # Matplotlib applies these in their order; alpha holds for edges too.
    edges = {"linewidth": 0.15, "edgecolor": (1, 1, 1, 0.35), "antialiased": True, "alpha": 0.9}
    axes.plot_surface(x, y, heights, rstride=1, cstride=1, **colors, **edges)
    axes.view_init(elev=choices["elevation"], azim=choices["azimuth"])
    axes.set_xlim(x[0, 0], x[0, -1])
    axes.set_ylim(y[0, 0], y[-1, 0])
    axes.set_zlim(low, high)
    positions, texts = scale.ticks()
    axes.set_zticks(positions, texts)
    for axis in (axes.xaxis, axes.yaxis):
        # Ticks at the ends of both axes would meet in the corner.
        axis.set_major_locator(MaxNLocator(6, prune="both"))
    x_label, y_label = (label.replace(" (", "\n(") for label in axis_labels(landscape, suffix=""))
    axes.set_xlabel(x_label, labelpad=14)
    axes.set_ylabel(y_label, labelpad=16)
    axes.set_zlabel(f"{split} {scale.label}", labelpad=12)
    if not np.isfinite(heights).all():
        axes.text2D(0.02, 0.98, nonfinite_note(heights, "holes"), transform=axes.transAxes, va="top", **NOTE)


def other_lines(axes: Axes3D, paths: list[OtherPath], animated: bool = False) -> list[Line3D]:
    """Add an empty path for each other run."""
    looks = {"linewidth": 2, "animated": animated, "zorder": 9}
    return [axes.plot([], [], [], "-", color=path.color, label=path.run, **looks)[0] for path in paths]


def path_lines(axes: Axes3D, animated: bool = False) -> tuple[Line3D, Line3D]:
    """Add an empty path and an empty marker of the current iteration."""
    (path,) = axes.plot([], [], [], "-", color=PATH_COLOR, linewidth=2, animated=animated, zorder=10)
    (now,) = axes.plot([], [], [], animated=animated, zorder=11, **(NOW_MARKER | {"markersize": 8}))
    return path, now


def surface_figure(landscape: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the surface with the whole path at the loss of its projection."""
    figure = plt.figure(figsize=(7.2, 6.2))
    axes = figure.add_axes((0.0, 0.03, 0.93, 0.9), projection="3d")
    scale = loss_scale(landscape, choices)
    draw_surface(axes, landscape, scale, choices)
    heights = scale(landscape["path_projected_loss"].sel(split="train").values)
    path, now = path_lines(axes)
    path.set_data_3d(landscape["path_x"].values, landscape["path_y"].values, heights)
    now.set_data_3d(landscape["path_x"].values[-1:], landscape["path_y"].values[-1:], heights[-1:])
    paths = other_paths(landscape)
    for line, other in zip(other_lines(axes, paths), paths, strict=True):
        line.set_data_3d(other.x, other.y, scale(other.loss))
    if paths:
        path.set_label("this run")
        axes.legend(handles=axes.get_lines()[:1] + axes.get_lines()[2:], loc="upper left", bbox_to_anchor=(0.05, 0.97))
    axes.set_title(noted(title, landscape))
    return figure
