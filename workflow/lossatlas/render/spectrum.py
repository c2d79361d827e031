"""The density of Hessian eigenvalues, on axes common to all frames, and how it changes along training."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.krylov import Spectrum
from lossatlas.render.style import NOW_COLOR, PATH_COLOR, TEST_COLOR

POINTS = 500
FLOOR = 0.1
"""Lowest density drawn, as a share of the peak of one single eigenvalue, 1 / (N sigma sqrt(2 pi))."""


class Densities:
    """Densities of all spectra of a run on one grid, with one kernel width."""

    def __init__(self, spectra: xr.Dataset, sigma: float | None = None):
        self.iterations = spectra["iteration"].values
        size = spectra.attrs["parameters"]
        pairs = zip(spectra["nodes"].values, spectra["weights"].values, strict=True)
        self.spectra = [Spectrum(nodes, np.nan_to_num(weights), size) for nodes, weights in pairs]
        self.smallest, self.largest = spectra["smallest"].values, spectra["largest"].values
        low, high = float(np.nanmin(self.smallest)), float(np.nanmax(self.largest))
        self.sigma = sigma or max(0.01 * (high - low), 1e-12)
        margin = 0.05 * (high - low) + 4 * self.sigma
        self.grid = np.linspace(low - margin, high + margin, POINTS)
        self.single = 1 / (size * self.sigma * np.sqrt(2 * np.pi))
        self.values = np.stack([q.density(self.grid, self.sigma).value for q in self.spectra])

    def at(self, iteration: int) -> int:
        """Return which spectrum belongs to an iteration: the last one computed up to it."""
        return max(0, int(np.searchsorted(self.iterations, iteration, side="right")) - 1)

    def landmarks(self) -> list[int]:
        """Return the indices of the first, the sharpest (largest eigenvalue) and the last spectrum, each once."""
        return sorted({0, int(np.nanargmax(self.largest)), len(self.iterations) - 1})


def draw_frame(axes: Axes, densities: Densities) -> None:
    """Draw axes, labels and the legend; the curve itself moves."""
    axes.set_yscale("log")
    axes.set_ylim(FLOOR * densities.single, 2 * densities.values.max())
    axes.set_xlim(densities.grid[0], densities.grid[-1])
    axes.set_xlabel(f"Hessian eigenvalue λ  (kernel width σ = {densities.sigma:.2g})")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)


def moving_lines(axes: Axes, animated: bool = False) -> tuple[Line2D, Line2D, Line2D]:
    """Add the density curve and the markers of the smallest and largest Ritz value."""
    (curve,) = axes.plot([], [], color=PATH_COLOR, linewidth=1.6, animated=animated)
    smallest = axes.axvline(0, color=TEST_COLOR, linewidth=1, linestyle=":", animated=animated)
    largest = axes.axvline(0, color=NOW_COLOR, linewidth=1, linestyle=":", animated=animated)
    return curve, smallest, largest


def place(lines: tuple[Line2D, Line2D, Line2D], densities: Densities, iteration: int) -> str:
    """Move curve and markers to an iteration; return what to say above."""
    index = densities.at(iteration)
    curve, smallest, largest = lines
    curve.set_data(densities.grid, densities.values[index])
    low, high = densities.smallest[index], densities.largest[index]
    smallest.set_xdata([low, low])
    largest.set_xdata([high, high])
    return f"iteration {densities.iterations[index]}: λ from {low:.3g} to {high:.3g}"


def density_figure(spectra: xr.Dataset, sigma: float | None, title: str) -> Figure:
    """Return the densities at the first, the sharpest and the last iteration; bands are 95 % intervals over probes."""
    densities = Densities(spectra, sigma)
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    draw_frame(axes, densities)
    for index, color in zip(densities.landmarks(), (TEST_COLOR, "0.45", PATH_COLOR), strict=False):
        axes.plot(
            densities.grid, densities.values[index], color=color, label=f"iteration {densities.iterations[index]}"
        )
        if len(densities.spectra[index].nodes) > 1:
            band = densities.spectra[index].density(densities.grid, densities.sigma)
            low = np.maximum(band.low, FLOOR * densities.single)
            axes.fill_between(densities.grid, low, band.high, color=color, alpha=0.2, linewidth=0)
    axes.set_title(title)
    axes.legend()
    return figure


def evolution_figure(spectra: xr.Dataset, title: str) -> Figure:
    """Return extreme nodes and trace along training; bars are 95 % intervals over probes."""
    iterations, size = spectra["iteration"].values, spectra.attrs["parameters"]
    pairs = zip(spectra["nodes"].values, spectra["weights"].values, strict=True)
    traces = [Spectrum(nodes, np.nan_to_num(weights), size).trace() for nodes, weights in pairs]
    value, low, high = (np.array([getattr(trace, end) for trace in traces]) for end in ("value", "low", "high"))
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.2, 5.6), sharex=True, layout="constrained")
    above.plot(iterations, spectra["largest"].values, ".-", color=PATH_COLOR, label="largest node")
    above.plot(iterations, spectra["smallest"].values, ".-", color=TEST_COLOR, label="smallest node")
    above.set_ylabel("eigenvalue λ")
    reach = np.where(np.isfinite(high - value), [value - low, high - value], 0.0)
    below.errorbar(
        iterations,
        value,
        reach,
        fmt=".-",
        color=PATH_COLOR,
        elinewidth=0.8,
        capsize=2,
        label=f"trace, 95 % interval of {spectra.sizes['probe']} probes",
    )
    below.set_ylabel("trace of the Hessian")
    below.set_xlabel("iteration")
    for axes in (above, below):
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    above.set_title(title)
    return figure


def variants_figure(spectra: dict[str, xr.Dataset], sigma: float | None, title: str) -> Figure:
    """Return the last densities of several matrices (Hessian, Gauss-Newton, parts of the parameters) on one axis."""
    low = min(float(dataset["smallest"][-1]) for dataset in spectra.values())
    high = max(float(dataset["largest"][-1]) for dataset in spectra.values())
    sigma = sigma or max(0.01 * (high - low), 1e-12)
    margin = 0.05 * (high - low) + 4 * sigma
    grid = np.linspace(low - margin, high + margin, POINTS)
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    floors, tops = [], []
    for name, dataset in spectra.items():
        size, last = dataset.attrs["parameters"], dataset.isel(iteration=-1)
        values = Spectrum(last["nodes"].values, np.nan_to_num(last["weights"].values), size).density(grid, sigma).value
        patterns = ", ".join(dataset.attrs["parameter_patterns"])
        axes.plot(grid, values, label=f"{name}: {dataset.attrs['operator']} of {patterns}, N = {size:,}")
        floors.append(FLOOR / (size * sigma * np.sqrt(2 * np.pi)))
        tops.append(values.max())
    axes.set_yscale("log")
    axes.set_ylim(min(floors), 2 * max(tops))
    axes.set_xlabel(f"eigenvalue λ at the last iteration  (kernel width σ = {sigma:.2g})")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    axes.legend(fontsize=8)
    return figure
