"""PCA of the path beside PCA of a random walk, so that a reader sees what is real."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import CHOICES, NOW_MARKER, PATH_COLOR, percent

TIME_COLORMAP, WALK_COLOR = "plasma", "#555555"

NULL = FigureSpec(
    kind="null",
    needs=("pca",),
    caption="The path in its first two principal components, a random walk with steps as long in its own, and the "
    "variance that components explain. What both show says nothing about the loss (Antognini & Sohl-Dickstein 2018).",
    details="In many dimensions a random walk's coordinates are cosines of time, and its components explain shares "
    "that fall with the square of their number. A similarity of 1 is a random walk up to rotation and scale; steps "
    "that go on in one direction spread the path wider than the walk.",
)


def null_figure(directions: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return both paths in their first two components, and the explained variance of both on one axis."""
    figure, panels = plt.subplots(1, 3, figsize=(13.0, 4.2), layout="constrained")
    for axes, who, name in zip(panels, ("path", "walk"), ("the run", "a random walk"), strict=False):
        _draw_path(axes, directions, who)
        axes.set_title(f"{name} with steps as long" if who == "walk" else name)
    iterations = directions["iteration"].values
    colors = ScalarMappable(Normalize(iterations[0], iterations[-1]), TIME_COLORMAP)
    figure.colorbar(colors, ax=panels[1], pad=0.02, label="iteration")
    _draw_shares(panels[2], directions)
    figure.suptitle(f"{title} beside a random walk: {_said(directions)}", fontsize=12)
    return figure


def _said(directions: xr.Dataset) -> str:
    similar, spread = (directions.attrs[key] for key in ("walk_similarity", "walk_spread"))
    return (f"similarity {similar:.3f}, " if np.isfinite(similar) else "") + f"spread {spread:.3g} times as wide"


def _draw_path(axes: Axes, directions: xr.Dataset, who: str) -> None:
    """Draw the coordinates of one path in its first two components, coloured by time."""
    coordinates, shares = directions[f"{who}_coordinate"].values, directions[f"{who}_share"].values
    x, y = coordinates[:, 0], coordinates[:, 1] if coordinates.shape[1] > 1 else np.zeros(len(coordinates))
    axes.plot(x, y, color="0.75", linewidth=0.8, zorder=1)
    axes.scatter(x, y, c=directions["iteration"].values, cmap=TIME_COLORMAP, s=10, zorder=2)
    axes.plot(x[-1:], y[-1:], zorder=3, **NOW_MARKER)
    axes.set_xlabel(f"component 1 ({percent(shares[0])})")
    axes.set_ylabel(f"component 2 ({percent(shares[1]) if len(shares) > 1 else '-'})")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)


def _draw_shares(axes: Axes, directions: xr.Dataset) -> None:
    """Draw the explained variance of both, and how the coordinates of each component correlate."""
    component = directions["component"].values
    for who, label, looks in (
        ("path", "the run", {"marker": "o", "color": PATH_COLOR}),
        ("walk", "a random walk", {"marker": "s", "color": WALK_COLOR, "linestyle": "--"}),
    ):
        shares = directions[f"{who}_share"].values
        axes.semilogy(component, np.where(shares > 0, shares, np.nan), label=label, markersize=5, **looks)
    for k, alike in zip(component, directions["walk_correlation"].values, strict=True):
        axes.text(k, 1.02, f"{alike:.2f}", transform=axes.get_xaxis_transform(), ha="center", fontsize=7.5)
    axes.set_title("correlation of the coordinates", fontsize=9, pad=16)
    axes.set_xlabel("component")
    axes.set_ylabel("explained variance")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.grid(alpha=0.3)
    axes.legend()
