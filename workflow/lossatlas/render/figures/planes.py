"""Still figures, as PDF for papers and PNG for screens."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.figure import Figure

from lossatlas.errors import room_for
from lossatlas.render.figures import contour, surface, training_curve
from lossatlas.render.style import CHOICES, evaluation_note, loss_scale, other_losses, other_paths, style


def contour_figure(landscape: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the contour plot with the whole path."""
    figure, axes = plt.subplots(figsize=(7.2, 5.4), layout="constrained")
    contour.draw_contours(axes, landscape, loss_scale(landscape, choices), choices)
    path, now = contour.path_lines(axes)
    path.set_data(landscape["path_x"].values, landscape["path_y"].values)
    now.set_data(landscape["path_x"].values[-1:], landscape["path_y"].values[-1:])
    paths = other_paths(landscape)
    others = contour.other_lines(axes, paths)
    for line, other in zip(others, paths, strict=True):
        line.set_data(other.x, other.y)
        path.set_label("this run")
    axes.set_title(noted(title, landscape))
    axes.legend(handles=[path, *others], loc="upper right")
    return figure


def surface_figure(landscape: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the surface with the whole path at the loss of its projection."""
    figure = plt.figure(figsize=(7.2, 6.2))
    axes = figure.add_axes((0.0, 0.03, 0.93, 0.9), projection="3d")
    scale = loss_scale(landscape, choices)
    surface.draw_surface(axes, landscape, scale, choices)
    heights = scale(landscape["path_projected_loss"].sel(split="train").values)
    path, now = surface.path_lines(axes)
    path.set_data_3d(landscape["path_x"].values, landscape["path_y"].values, heights)
    now.set_data_3d(landscape["path_x"].values[-1:], landscape["path_y"].values[-1:], heights[-1:])
    paths = other_paths(landscape)
    for line, other in zip(surface.other_lines(axes, paths), paths, strict=True):
        line.set_data_3d(other.x, other.y, scale(other.loss))
    if paths:
        path.set_label("this run")
        axes.legend(handles=axes.get_lines()[:1] + axes.get_lines()[2:], loc="upper left", bbox_to_anchor=(0.05, 0.97))
    axes.set_title(noted(title, landscape))
    return figure


def noted(title: str, landscape: xr.Dataset) -> str:
    """Return the title, with a line on how much of the surface is evaluated if that is not all."""
    return "\n".join(part for part in (title, evaluation_note(landscape)) if part)


def curve_figure(landscape: xr.Dataset, trajectory: xr.Dataset, title: str) -> Figure:
    """Return the loss along training."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    training_curve.draw_curve(axes, landscape, trajectory, other_losses(landscape))
    axes.set_title(title)
    return figure


def save(figure: Figure, paths: list[Path]) -> None:
    """Write a figure in the formats of the file names; without the clock, so that equal figures are equal files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        with room_for(path):
            figure.savefig(path, dpi=150, metadata=metadata)
    plt.close(figure)


__all__ = ["contour_figure", "curve_figure", "save", "style", "surface_figure"]
