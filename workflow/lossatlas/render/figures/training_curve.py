"""The loss along training."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import logarithmic
from lossatlas.render.style import CHOICES, NOW_COLOR, NOW_MARKER, PATH_COLOR, TEST_COLOR, other_losses

LOSS = FigureSpec(
    kind="loss",
    needs=("landscape", "trajectory"),
    rule="figures",
    caption="The loss of the checkpoints themselves and (dashed) of their projections.",
    details="The checkpoints are evaluated on the training and test subsets; grey is the loss of the mini-batches.",
)


def draw_curve(axes: Axes, landscape: xr.Dataset, trajectory: xr.Dataset, others: Sequence[tuple] = ()) -> None:
    """Draw true losses on both subsets, the loss of the projections, and the mini-batch loss.

    Args:
        others: name, colour, iterations and losses of other runs, on their training samples.
    """
    iterations = landscape["iteration"].values

    def losses(name: str, split: str = "train") -> np.ndarray:
        return landscape[name].sel(split=split).values

    dashed = {"color": PATH_COLOR, "linewidth": 1.2, "linestyle": "--"}
    curves = [("mini-batch", trajectory["batch_loss"].values, {"color": "0.75", "linewidth": 0.8})]
    curves += [("train subset", losses("path_true_loss"), {"color": PATH_COLOR, "linewidth": 1.8})]
    if "test" in landscape["split"].values:
        curves += [("test subset", losses("path_true_loss", "test"), {"color": TEST_COLOR, "linewidth": 1.4})]
    curves += [("train subset, on the plane", losses("path_projected_loss"), dashed)]
    for label, values, looks in curves:
        values = np.where(np.isfinite(values), values, np.nan)
        if np.isfinite(values).any():
            axes.plot(iterations, values, label=label, **looks)
    for run, color, steps, values in others:
        axes.plot(steps, np.where(np.isfinite(values), values, np.nan), label=run, color=color, linewidth=1.4)
    drawn = [line.get_ydata() for line in axes.get_lines()]
    finite = np.concatenate([y[np.isfinite(y)] for y in drawn]) if drawn else np.ones(1)
    if finite.size and logarithmic(finite.min(), finite.max()):
        axes.set_yscale("log")
    ends = [iterations[-1], iterations[0] + 1, *(steps[-1] for _, _, steps, _ in others)]
    axes.set_xlim(iterations[0], max(ends))
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", framealpha=0.8, fontsize=8)


def now_lines(axes: Axes, animated: bool = False) -> tuple[Line2D, Line2D]:
    """Add a vertical line and a marker for the current iteration."""
    line = axes.axvline(0, color=NOW_COLOR, linewidth=0.8, animated=animated)
    (now,) = axes.plot([], [], animated=animated, clip_on=False, **NOW_MARKER)
    return line, now


def loss_figure(landscape: xr.Dataset, trajectory: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the loss along training."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    draw_curve(axes, landscape, trajectory, other_losses(landscape))
    axes.set_title(title)
    return figure
