"""Hessian eigenvectors along training: who is who, how fast they turn, and what of gradient and step they hold."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import logarithmic
from lossatlas.render.style import CHOICES, NOW_COLOR, PATH_COLOR, TEST_COLOR

SAME = np.sqrt(0.5)
"""Overlap below which an eigenvector has more of others in it than of the one that it continues."""

TRACKING = FigureSpec(
    kind="tracking",
    needs=("tracking",),
    title="{run}: Hessian eigenvectors along training",
    caption="Eigenvalues along training in the colours of their eigenvectors; overlaps with the tracked iteration "
    "before; shares of gradient and step in the subspace of the eigenvectors.",
    details="An eigenvalue keeps the colour of its eigenvector also where two of them cross. The dashed line is the "
    "share that a random vector has in the subspace (k / N).",
)


def identities(tracking: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return who is where, (iteration, identity), and the overlap of each identity with itself before.

    Identities are the pairs of the first iteration, handed on by ``matched``. The first array holds the number of the
    pair that an identity is now; the second is NaN at the first iteration.
    """
    matched, overlap = tracking["matched"].values, tracking["overlap"].values
    place, kept = np.tile(np.arange(matched.shape[1]), (len(matched), 1)), np.full(matched.shape, np.nan)
    for i in range(1, len(matched)):
        place[i] = np.argsort(matched[i])[place[i - 1]]
        kept[i] = overlap[i, place[i - 1], place[i]]
    return place, kept


def tracking_figure(tracking: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return eigenvalues in the colours of their eigenvectors, overlaps with the iteration before, and shares."""
    figure, (above, middle, below) = plt.subplots(
        3, 1, figsize=(9, 10), sharex=True, layout="constrained", height_ratios=(1.5, 1, 1)
    )
    place, kept = identities(tracking)
    count = place.shape[1]
    colors = [plt.get_cmap("tab10")(k) if count <= 10 else plt.get_cmap("turbo")(k / count) for k in range(count)]
    _draw_eigenvalues(above, tracking, place, kept, colors)
    _draw_overlaps(middle, tracking, kept, colors)
    _draw_shares(below, tracking)
    for axes in (above, middle, below):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("iteration")
    above.set_title(title)
    return figure


def _draw_eigenvalues(axes: Axes, tracking: xr.Dataset, place: np.ndarray, kept: np.ndarray, colors: list) -> None:
    """Draw a curve for each identity, dotted where it is hardly the same vector, with changes of order marked."""
    iterations, ends = tracking["iteration"].values, tracking["end"].values
    values = np.take_along_axis(tracking["eigenvalue"].values, place, axis=1)
    for k, color in enumerate(colors):
        points = np.column_stack([iterations, values[:, k]])
        segments = np.stack([points[:-1], points[1:]], axis=1)
        axes.plot(*points.T, ".", color=color, markersize=4)
        axes.add_collection(LineCollection(segments[kept[1:, k] >= SAME], colors=[color], linewidths=1.5))
        axes.add_collection(
            LineCollection(segments[kept[1:, k] < SAME], colors=[color], linewidths=0.8, linestyles=":")
        )
        axes.plot([], [], color=color, linewidth=1.5, label=f"eigenvector {k + 1} (of the {ends[k]} at first)")
    _mark(axes, iterations, values, np.diff(place, axis=0, prepend=place[:1]) != 0, "o", "order changed")
    unconverged = np.take_along_axis(tracking["converged"].values, place, axis=1) == 0
    _mark(axes, iterations, values, unconverged, "x", "not converged")
    sizes = np.abs(values).max(axis=1)
    if logarithmic(sizes.min(), sizes.max()):
        axes.set_yscale("symlog", linthresh=float(sizes.min()))
        axes.autoscale_view()
    axes.set_ylabel("Hessian eigenvalue λ")


def _mark(axes: Axes, iterations: np.ndarray, values: np.ndarray, where: np.ndarray, marker: str, label: str) -> None:
    if where.any():
        at, _ = np.nonzero(where)
        looks = {"marker": marker, "linestyle": "none", "color": NOW_COLOR, "markerfacecolor": "none"}
        axes.plot(iterations[at], values[where], markersize=6, markeredgewidth=0.8, label=label, **looks)


def _draw_overlaps(axes: Axes, tracking: xr.Dataset, kept: np.ndarray, colors: list) -> None:
    iterations = tracking["iteration"].values
    for k, color in enumerate(colors):
        axes.plot(iterations, kept[:, k], ".-", color=color, linewidth=0.9, markersize=4)
    axes.plot([], [], ".-", color="0.6", label="each eigenvector,\ncolours as above")
    dimension = tracking.attrs["subspace_dimension"]
    label = f"subspace of dimension {dimension}\n(mean squared cosine)"
    axes.plot(iterations, tracking["subspace_overlap"].values, color=NOW_COLOR, linewidth=1.6, label=label)
    axes.axhline(SAME, color="0.5", linewidth=0.8, linestyle=":", label="√½; curves above are\ndotted below it")
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("overlap with the iteration before")


def _draw_shares(axes: Axes, tracking: xr.Dataset) -> None:
    iterations, dimension, size = (
        tracking["iteration"].values,
        *map(tracking.attrs.__getitem__, ("subspace_dimension", "parameters")),
    )
    for name, color, label in (
        ("gradient_share", PATH_COLOR, "gradient, ‖Pg‖² / ‖g‖²"),
        ("step_share", TEST_COLOR, "step to the next\nrecorded iteration"),
    ):
        axes.plot(iterations, tracking[name].values, ".-", color=color, linewidth=1.2, markersize=4, label=label)
    chance = dimension / size
    label = f"chance, k / N = {dimension} / {size:,}"
    axes.axhline(chance, color="0.4", linewidth=1, linestyle="--", label=label)
    axes.set_yscale("log")
    axes.set_ylim(top=1.5)
    axes.set_ylabel(f"share in the {tracking.attrs['subspace']}")
