"""Colours, fonts, names and notes, the same in every figure, and how figures are written."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lossatlas.config.models import Figures
from lossatlas.errors import room_for

CHOICES = Figures().model_dump()
"""Defaults of the config's ``figures``, for pictures drawn without a config."""

WIDTH, HEIGHT, DPI = 1280, 720, 100
PATH_COLOR, NOW_COLOR, TEST_COLOR, NONFINITE_COLOR = "#d62728", "#000000", "#1f77b4", "#c8c8c8"
OTHER_COLORS = ("#ff9f1c", "#e56bb3", "#2ec4f1", "#8c564b", "#ffffff")
"""Paths of other runs on a plane, in the order of the config."""
COLORMAP = "viridis"
NOW_MARKER = {
    "marker": "o",
    "linestyle": "none",
    "color": NOW_COLOR,
    "markerfacecolor": "white",
    "markersize": 7,
    "markeredgewidth": 1.6,
}
"""The current iteration, on every panel."""
NOTE = {"fontsize": 8, "bbox": {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}}
"""Text inside a picture."""


def style() -> AbstractContextManager:
    """Return the context in which every picture is drawn."""
    return plt.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "pdf.fonttype": 42,
            "path.simplify": False,
        }
    )


def nonfinite_note(values: np.ndarray, look: str) -> str:
    """Return how many values are NaN or inf, and how these look."""
    return f"{(~np.isfinite(values)).sum()} of {values.size} points are NaN or inf ({look})"


def interpolated(landscape: xr.Dataset) -> bool:
    """Return whether only some points of a surface are evaluated."""
    return "evaluated" in landscape and not landscape["evaluated"].values.all()


def evaluation_note(landscape: xr.Dataset, split: str = "train") -> str:
    """Return how much of a surface is evaluated and how good the rest is; nothing where all of it is."""
    if not interpolated(landscape):
        return ""
    evaluated = landscape["evaluated"].values
    counted = f"{int(evaluated.sum())} of {evaluated.size} points evaluated"
    if "error" not in landscape or not landscape.attrs.get("finished", True):
        return f"preview: {counted}"
    error = float(landscape["error"].sel(split=split))
    return f"{counted}, error ≤ {percent(max(error, 1e-4))} of the range"


def noted(title: str, landscape: xr.Dataset) -> str:
    """Return the title, with a line on how much of the surface is evaluated if that is not all."""
    return "\n".join(part for part in (title, evaluation_note(landscape)) if part)


@dataclass(frozen=True)
class OtherPath:
    """Another run's path on a plane: its name and colour, iterations, and positions, with the loss there."""

    run: str
    color: str
    iterations: np.ndarray
    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray


def other_paths(landscape: xr.Dataset, split: str = "train") -> list[OtherPath]:
    """Return the paths of other runs; where they were not evaluated their loss is that of the surface beneath."""
    if "other_run" not in landscape:
        return []
    x, y = landscape["other_x"], landscape["other_y"]
    if "other_projected_loss" in landscape:
        loss = landscape["other_projected_loss"].sel(split=split).values
    else:
        loss = landscape["loss"].sel(split=split).interp(x=x, y=y).values
    runs = landscape["other_run"].values
    found = []
    for k, run in enumerate(dict.fromkeys(runs.tolist())):
        own = runs == run
        iterations, color = landscape["other_iteration"].values[own], OTHER_COLORS[k % len(OTHER_COLORS)]
        found.append(OtherPath(run, color, iterations, x.values[own], y.values[own], loss[own]))
    return found


def other_losses(landscape: xr.Dataset, split: str = "train") -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Return name, colour, iterations and losses of the checkpoints of other runs, where they were evaluated."""
    if "other_true_loss" not in landscape:
        return []
    runs, losses = landscape["other_run"].values, landscape["other_true_loss"].sel(split=split).values
    return [(path.run, path.color, path.iterations, losses[runs == path.run]) for path in other_paths(landscape, split)]


def plain(text: str) -> str:
    """Return a text of the user's, in which a dollar begins no formula."""
    return text.replace("$", r"\$")


def axis_labels(landscape: xr.Dataset, suffix: str = " of path variance") -> tuple[str, str]:
    """Return the labels of x and y: direction and share of the path's variance."""
    labels = []
    for axis, share in zip(("x_label", "y_label"), landscape.attrs["variance_share"], strict=True):
        if landscape.sizes["iteration"] < 2:  # there is no path
            labels.append(plain(str(landscape.attrs[axis])))
            continue
        labels.append(f"{plain(landscape.attrs[axis])} ({percent(share)}{suffix})")
    return labels[0], labels[1]


def percent(share: float) -> str:
    """Return a share as a percentage with a sensible number of digits."""
    if 0 < share < 1e-4:
        return "<0.01 %"
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.2f} %"


def save(figure: Figure, paths: list[Path]) -> None:
    """Write a figure in the formats of the file names; without the clock, so that equal figures are equal files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        with room_for(path):
            figure.savefig(path, dpi=150, metadata=metadata)
    plt.close(figure)
