"""Loss, extreme eigenvalues, trace and spectral density on a straight line between two checkpoints."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from lossatlas.render.figures.spectrum import FLOOR, Densities, draw_trace
from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import logarithmic
from lossatlas.render.style import CHOICES, COLORMAP, NOW_COLOR, PATH_COLOR, TEST_COLOR

BETWEEN = FigureSpec(
    kind="between",
    needs=("spectra_between",),
    rule="line_figure",
    log="between",
    title="{run}: Hessian spectra on line {line}",
    caption="Loss, extreme eigenvalues with the trace (bars are 95 % intervals over probes), and the density of the "
    "Hessian's eigenvalues on the straight line between the two checkpoints, which dotted lines mark.",
    details="Dashes in the density are isolated eigenvalues of weight 1/N. Extreme eigenvalues are nodes of the "
    "Lanczos quadrature, on the left scale; the trace is on the right.",
)


def between_figure(spectra: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return loss, extreme nodes with the trace, and the density at positions between two checkpoints.

    The three panels share the axis of positions (GradVis section 3.4).
    """
    figure, grid = plt.subplots(
        *(3, 2), figsize=(7.2, 9), layout="constrained", sharex="col", width_ratios=(1, 0.03), height_ratios=(3, 4, 4)
    )
    above, middle, below = grid[:, 0]
    for unused in grid[:2, 1]:
        unused.set_axis_off()
    _draw_loss(above, spectra)
    _draw_extremes(middle, spectra)
    mesh = _draw_density(below, spectra, choices.get("kernel_width"))
    figure.colorbar(mesh, cax=grid[2, 1], extend="min").set_label("density (log scale)")
    below.set_xlabel("position on the line")
    for axes, color in ((above, NOW_COLOR), (middle, NOW_COLOR), (below, "white")):
        for end in (0, 1):
            axes.axvline(end, color=color, linewidth=0.8, linestyle=":")
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_loss(axes: Axes, spectra: xr.Dataset) -> None:
    """Draw the loss; the axis above says what the ends are."""
    loss = spectra["loss"].values
    axes.plot(spectra["position"].values, loss, ".-", color=PATH_COLOR)
    if logarithmic(loss.min(), loss.max()):
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    ends = axes.secondary_xaxis("top")
    ends.set_xticks([0, 1], [f"from: {spectra.attrs['from']}", f"to: {spectra.attrs['to']}"])
    for label, side in zip(ends.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)


def _draw_extremes(axes: Axes, spectra: xr.Dataset) -> None:
    """Draw the extreme nodes on the left scale and the trace on the right one."""
    position, right = spectra["position"].values, axes.twinx()
    axes.plot(position, spectra["largest"].values, ".-", color=PATH_COLOR, label="largest node")
    axes.plot(position, spectra["smallest"].values, ".-", color=TEST_COLOR, label="smallest node")
    draw_trace(right, spectra, position, "0.35")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylabel("eigenvalue λ")
    (low, high), ends = axes.get_ylim(), right.get_ylim()
    stretch = max(ends[0] / low, ends[1] / high)
    right.set_ylim(stretch * low, stretch * high)  # one zero for both scales
    right.set_ylabel("trace of the Hessian", color="0.35")
    right.tick_params(axis="y", colors="0.35")
    axes.grid(alpha=0.3)
    one, two = (scale.get_legend_handles_labels() for scale in (axes, right))
    axes.legend(one[0] + two[0], one[1] + two[1], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw_density(axes: Axes, spectra: xr.Dataset, sigma: float | None) -> QuadMesh:
    """Draw the density as a heat map, one column of colour for each position, and return it.

    Isolated eigenvalues are dashes of the colour of their kernel's peak, not smeared out.
    """
    densities = Densities(spectra, sigma)
    colors = LogNorm(FLOOR * densities.single, densities.values.max())
    values = np.maximum(densities.smooth, 1e-300)  # what underflows is below the scale, not missing
    drawn = {"norm": colors, "cmap": COLORMAP, "shading": "nearest", "rasterized": True}
    mesh = axes.pcolormesh(densities.coordinate, densities.grid, values.T, **drawn)
    found = [spectrum.outliers for spectrum in densities.spectra]
    at = np.repeat(densities.coordinate, [len(one) for one in found])
    height = np.full(len(at), densities.single)
    axes.scatter(at, np.concatenate(found), c=height, marker="_", s=36, norm=colors, cmap=COLORMAP)
    axes.set_ylabel(f"eigenvalue λ  (kernel width σ = {densities.sigma:.2g})")
    return mesh
