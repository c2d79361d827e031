"""Distributions of the loss's change under Gaussian perturbation (Li et al. 2024, Fig. 13, second row)."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import CHOICES, PATH_COLOR, TEST_COLOR, percent

PERTURBATION = FigureSpec(
    kind="perturbation",
    needs=("perturbations",),
    log="perturbations",
    caption="Changes of the loss at Gaussian perturbations of each size: a histogram of the draws, and the mean (line) "
    "and two standard deviations (dashed) that the Hessian's trace and trace of square predict to second order. Bars: "
    "95 % intervals of means, sampled below and predicted above.",
)


def perturbation_figure(perturbations: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return a panel for each size of the perturbation."""
    count = perturbations.sizes["factor"]
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.9 * rows), layout="constrained", squeeze=False
    )
    for k, axes in enumerate(panels.flat):
        if k < count:
            _draw(axes, perturbations.isel(factor=k), perturbations.attrs["sigma"])
        else:
            axes.set_axis_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw(axes: Axes, one: xr.Dataset, sigma: float) -> None:
    change = one["loss_change"].values
    finite = change[np.isfinite(change)]
    counts, _, _ = axes.hist(finite, bins=min(30, max(5, int(np.sqrt(len(finite))))), color="0.75", label="draws")
    top = counts.max() if len(finite) else 1.0
    mean, deviation = float(one["predicted_mean"]), np.sqrt(float(one["predicted_variance"]))
    axes.axvline(mean, color=PATH_COLOR, linewidth=1.4, label="predicted mean")
    for side, label in ((-2, "predicted mean ± 2 standard deviations"), (2, None)):
        axes.axvline(mean + side * deviation, color=PATH_COLOR, linewidth=0.9, linestyle="--", label=label)
    low, high = (abs(float(one[f"predicted_mean_{end}"]) - mean) for end in ("low", "high"))
    axes.errorbar(mean, 1.10 * top, xerr=[[low], [high]], fmt="o", color=PATH_COLOR, markersize=3, capsize=3)
    reach = 1.96 * float(one["sampled_mean_error"])
    told = {"fmt": "o", "color": TEST_COLOR, "markersize": 3, "capsize": 3, "label": "mean of the draws, 95 %"}
    axes.errorbar(float(one["sampled_mean"]), 1.04 * top, xerr=reach, **told)
    axes.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.18 * top)
    axes.set_xlabel("change of the loss")
    axes.set_ylabel(f"count of {len(change)}")
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    axes.locator_params(axis="x", nbins=5)
    size, increasing = float(one["factor"]) * sigma, percent(float(one["increasing"]))
    axes.set_title(f"λσ = {size:.3g}: {increasing} increase", fontsize=10)
