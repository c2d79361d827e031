"""The density of Hessian eigenvalues, on axes common to all frames, and how the spectrum changes along training."""

from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.krylov import Spectrum
from lossatlas.render.registry import FigureSpec
from lossatlas.render.style import CHOICES, NOW_COLOR, PATH_COLOR, TEST_COLOR, plain

POINTS = 500
FLOOR = 0.1
"""Lowest density drawn, as a share of the peak of one single eigenvalue, 1 / (N sigma sqrt(2 pi))."""

DENSITY = FigureSpec(
    kind="density",
    needs=("spectra",),
    rule="spectra_figures",
    log="spectra",
    title="{run}: Hessian spectra",
    caption="Density of the Hessian's eigenvalues at the first, the sharpest and the last iteration; bands are 95 % "
    "intervals over probes. Sticks are isolated eigenvalues, each of weight exactly 1/N and as high as its kernel; "
    "triangles mark extremes whose density lies below the figure.",
    details="The sharpest has the largest eigenvalue. Computed by stochastic Lanczos quadrature.",
)
DISTRIBUTION = FigureSpec(
    kind="distribution",
    needs=("spectra",),
    rule="spectra_figures",
    caption="Share of eigenvalues up to a value; bands hold the spread over probes and the quadrature's own bounds.",
    details="At the first, the sharpest (largest eigenvalue) and the last iteration.",
)
EVOLUTION = FigureSpec(
    kind="evolution",
    needs=("spectra",),
    rule="spectra_figures",
    caption="Extreme eigenvalues and the trace along training; bars are 95 % intervals over probes.",
    details="Extreme eigenvalues are the largest and the smallest node of the Lanczos quadrature.",
)
COUNTS = FigureSpec(
    kind="counts",
    needs=("spectra",),
    rule="spectra_figures",
    caption="How many eigenvalues lie below -ε and above +ε along training; bands hold the spread over probes and the "
    "quadrature's own bounds.",
    details="ε is ``figures.epsilon``, or a thousandth of the largest magnitude of an eigenvalue of the run.",
)
VARIANTS = FigureSpec(
    kind="variants",
    needs=("spectra", "variants"),
    title="{run}: spectra of several matrices",
    caption="Densities of several matrices at the last iteration; bands are 95 % intervals over probes. Sticks are "
    "isolated eigenvalues, each of weight exactly 1/N; triangles mark extremes whose density lies below the figure.",
    details="They are the Hessian and the matrices that the config's ``spectra.variants`` name (Gauss-Newton, "
    "residual, or parts of the parameters).",
)


class Densities:
    """Densities of all spectra of a store, along training or along a line, on one grid, with one kernel width."""

    def __init__(self, spectra: xr.Dataset, sigma: float | None = None):
        self.axis = str(spectra["nodes"].dims[0])
        self.coordinate = spectra[self.axis].values
        self.spectra, size = quadratures(spectra), spectra.attrs["parameters"]
        self.smallest, self.largest = spectra["smallest"].values, spectra["largest"].values
        low, high = float(np.nanmin(self.smallest)), float(np.nanmax(self.largest))
        self.sigma = sigma or max(0.01 * (high - low), 1e-12)
        margin = 0.05 * (high - low) + 4 * self.sigma
        self.grid = np.linspace(low - margin, high + margin, POINTS)
        self.single = peak(size, self.sigma)
        self.values = np.stack([q.density(self.grid, self.sigma).value for q in self.spectra])

    @cached_property
    def smooth(self) -> np.ndarray:
        """The densities of all but the isolated eigenvalues, which are drawn as sticks (spectrum, point)."""
        return np.stack([q.density(self.grid, self.sigma, isolated=False).value for q in self.spectra])

    def at(self, iteration: int) -> int:
        """Return which spectrum belongs to an iteration: the last one computed up to it."""
        return max(0, int(np.searchsorted(self.coordinate, iteration, side="right")) - 1)

    def name(self, index: int) -> str:
        """Return what a spectrum is called: ``iteration 10``, and one that lies along nothing by its own name."""
        at = self.coordinate[index]
        return str(at) if isinstance(at, str) else f"{self.axis} {at}"

    def landmarks(self) -> list[int]:
        """Return the indices of the first, the sharpest (largest eigenvalue) and the last spectrum, each once."""
        return sorted({0, int(np.nanargmax(self.largest)), len(self.coordinate) - 1})


def peak(size: int, sigma: float) -> float:
    """Return the height of one eigenvalue's kernel, of weight 1 / ``size``."""
    return 1 / (size * sigma * np.sqrt(2 * np.pi))


def quadratures(spectra: xr.Dataset) -> list[Spectrum]:
    """Return the quadratures of a store, one for each iteration or position."""
    arrays = (spectra[name].values for name in ("nodes", "weights", "residual_bounds"))
    return [Spectrum.read(n, w, b, spectra.attrs["parameters"]) for n, w, b in zip(*arrays, strict=True)]


def sticks(isolated: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and counts of sticks: isolated eigenvalues (ascending) closer than ``sigma`` share one."""
    groups = np.split(isolated, np.nonzero(np.diff(isolated) > sigma)[0] + 1) if len(isolated) else []
    return np.array([group.mean() for group in groups]), np.array([len(group) for group in groups], int)


def sticks_note(spectra: list[Spectrum]) -> str | None:
    """Return what a legend says of sticks, if there are any."""
    return "sticks: weight 1/N each" if any(len(spectrum.outliers) for spectrum in spectra) else None


def stick_line(at: np.ndarray, heights: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of one broken line: a vertical stroke from the floor at each position."""
    ends = np.stack([np.full(len(at), floor), heights, np.full(len(at), np.nan)], axis=1)
    return np.repeat(at, 3), ends.ravel()


def draw_density(axes: Axes, grid: np.ndarray, spectrum: Spectrum, sigma: float, color: str, name: str) -> None:
    """Draw a smooth density with its band, isolated eigenvalues as sticks with their count, and hidden extremes."""
    single, isolated = peak(spectrum.size, sigma), spectrum.outliers
    floor, density = FLOOR * single, spectrum.density(grid, sigma, isolated=False)
    at, counts = sticks(isolated, sigma)
    axes.plot(grid, density.value, color=color, label=f"{name}, {len(isolated)} isolated" if len(isolated) else name)
    band = np.maximum(density.low, floor), np.maximum(density.high, floor)
    axes.fill_between(grid, *band, color=color, alpha=0.2, linewidth=0)
    axes.plot(*stick_line(at, counts * single, floor), color=color, linewidth=1.6)
    for x, count in zip(at[counts > 1], counts[counts > 1], strict=True):
        axes.annotate(f"{count}", (x, count * single), (0, 2), textcoords="offset points", color=color,
                      ha="center", fontsize=8)  # fmt: skip
    ends = np.array([np.nanmin(spectrum.nodes), np.nanmax(spectrum.nodes)])
    hidden = [end for end in ends if np.interp(end, grid, density.value) < floor
              and not np.isclose(end, isolated).any()]  # fmt: skip
    if hidden:  # an empty line that is not clipped would make room for itself in the corner of the figure
        axes.plot(hidden, np.full(len(hidden), floor), "^", color=color, markersize=7, clip_on=False)


def draw_frame(axes: Axes, densities: Densities) -> None:
    """Draw axes, labels and the legend; the curve itself moves."""
    axes.set_yscale("log")
    axes.set_ylim(FLOOR * densities.single, 2 * densities.values.max())
    axes.set_xlim(densities.grid[0], densities.grid[-1])
    axes.set_xlabel(f"Hessian eigenvalue λ  (kernel width σ = {densities.sigma:.2g})")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)


def moving_lines(axes: Axes, animated: bool = False) -> tuple[Line2D, ...]:
    """Add the density curve, the markers of the smallest and largest Ritz value, and the isolated eigenvalues."""
    (curve,) = axes.plot([], [], color=PATH_COLOR, linewidth=1.6, animated=animated)
    smallest = axes.axvline(0, color=TEST_COLOR, linewidth=1, linestyle=":", animated=animated)
    largest = axes.axvline(0, color=NOW_COLOR, linewidth=1, linestyle=":", animated=animated)
    (isolated,) = axes.plot([], [], color=PATH_COLOR, linewidth=1.6, animated=animated)
    return curve, smallest, largest, isolated


def place(lines: tuple[Line2D, ...], densities: Densities, iteration: int) -> str:
    """Move curve, markers and sticks to an iteration; return what to say above."""
    index = densities.at(iteration)
    curve, smallest, largest, isolated = lines
    curve.set_data(densities.grid, densities.smooth[index])
    low, high = densities.smallest[index], densities.largest[index]
    smallest.set_xdata([low, low])
    largest.set_xdata([high, high])
    found = densities.spectra[index].outliers
    at, counts = sticks(found, densities.sigma)
    isolated.set_data(*stick_line(at, counts * densities.single, FLOOR * densities.single))
    said = f"iteration {densities.coordinate[index]}: λ from {low:.3g} to {high:.3g}"
    return f"{said}, {len(found)} isolated" if len(found) else said


def density_figure(spectra: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the densities at the first, the sharpest and the last iteration; bands are 95 % intervals over probes."""
    densities = Densities(spectra, choices.get("kernel_width"))
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    draw_frame(axes, densities)
    for index, color in zip(densities.landmarks(), (TEST_COLOR, "0.45", PATH_COLOR), strict=False):
        spectrum, name = densities.spectra[index], densities.name(index)
        draw_density(axes, densities.grid, spectrum, densities.sigma, color, name)
    axes.set_title(title)
    axes.legend(title=sticks_note(densities.spectra))
    return figure


def distribution_figure(spectra: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the share of eigenvalues up to a value at the first, the sharpest and the last iteration.

    It needs no kernel width. Bands hold spread over probes and the quadrature's own bounds together.
    """
    densities = Densities(spectra)
    reach = np.abs([densities.grid[0], densities.grid[-1]]).max()
    near = 1e-3 * reach
    grid = np.concatenate([-np.geomspace(reach, near, POINTS)[:-1], np.linspace(-near, near, POINTS),
                           np.geomspace(near, reach, POINTS)[1:]])  # fmt: skip
    grid = grid[(grid >= densities.grid[0]) & (grid <= densities.grid[-1])]
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    for index, color in zip(densities.landmarks(), (TEST_COLOR, "0.45", PATH_COLOR), strict=False):
        share = densities.spectra[index].distribution(grid)
        axes.plot(grid, share.value, color=color, label=densities.name(index))
        axes.fill_between(grid, share.low, share.high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("symlog", linthresh=near)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"Hessian eigenvalue λ  (linear within ±{near:.1g}, logarithmic beyond)")
    axes.set_ylabel("share of eigenvalues ≤ λ")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    axes.legend(loc="upper left")
    return figure


def evolution_figure(spectra: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return extreme nodes and trace along training; bars are 95 % intervals over probes."""
    iterations = spectra["iteration"].values
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.2, 5.6), sharex=True, layout="constrained")
    above.plot(iterations, spectra["largest"].values, ".-", color=PATH_COLOR, label="largest node")
    above.plot(iterations, spectra["smallest"].values, ".-", color=TEST_COLOR, label="smallest node")
    above.set_ylabel("eigenvalue λ")
    draw_trace(below, spectra, iterations, PATH_COLOR)
    below.set_ylabel("trace of the Hessian")
    below.set_xlabel("iteration")
    for axes in (above, below):
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    above.set_title(title)
    return figure


def counts_figure(spectra: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return the numbers of eigenvalues below -epsilon and above +epsilon along training, with bounds.

    GradVis's growing negative eigenvalues; many eigenvalues lie near 0, where no number of steps tells their signs.
    """
    iterations, found = spectra["iteration"].values, quadratures(spectra)
    reach = max(float(np.nanmax(np.abs(spectra[end].values))) for end in ("smallest", "largest"))
    epsilon = choices.get("epsilon") or 1e-3 * reach
    counts = [quadrature.count(epsilon) for quadrature in found]
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    for side, color, label in (("above", PATH_COLOR, "λ > ε"), ("below", TEST_COLOR, "λ < −ε")):
        value, low, high = ([float(getattr(one[side], end)) for one in counts] for end in ("value", "low", "high"))
        axes.plot(iterations, value, ".-", color=color, label=label)
        axes.fill_between(iterations, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 1.5 * spectra.attrs["parameters"])
    axes.set_xlabel("iteration")
    axes.set_ylabel(f"eigenvalues beyond ±ε, of {spectra.attrs['parameters']:,}")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    axes.legend(title=f"ε = {epsilon:.2g}")
    return figure


def draw_trace(axes: Axes, spectra: xr.Dataset, at: np.ndarray, color: str) -> None:
    """Draw the trace with 95 % intervals over probes as bars."""
    traces = [quadrature.trace() for quadrature in quadratures(spectra)]
    value, low, high = (np.array([getattr(trace, end) for trace in traces]) for end in ("value", "low", "high"))
    label = f"trace, 95 % interval of {spectra.sizes['probe']} probes"
    axes.errorbar(at, value, [value - low, high - value], fmt=".-", color=color, elinewidth=0.8, capsize=2, label=label)


def variants_figure(
    spectra: xr.Dataset, variants: dict[str, xr.Dataset], choices: dict = CHOICES, title: str = ""
) -> Figure:
    """Return the last densities of several matrices (Hessian, Gauss-Newton, parts of the parameters) on one axis."""
    stores = {"spectra": spectra, **variants}
    low = min(float(dataset["smallest"][-1]) for dataset in stores.values())
    high = max(float(dataset["largest"][-1]) for dataset in stores.values())
    sigma = choices.get("kernel_width") or max(0.01 * (high - low), 1e-12)
    margin = 0.05 * (high - low) + 4 * sigma
    grid = np.linspace(low - margin, high + margin, POINTS)
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    drawn = [quadratures(dataset.isel(iteration=slice(-1, None)))[0] for dataset in stores.values()]
    for i, (spectrum, (name, dataset)) in enumerate(zip(drawn, stores.items(), strict=True)):
        patterns = plain(", ".join(dataset.attrs["parameter_patterns"]))
        label = f"{name}: {dataset.attrs['operator']} of {patterns}, N = {spectrum.size:,}"
        draw_density(axes, grid, spectrum, sigma, f"C{i}", label)
    axes.set_yscale("log")
    top = max(spectrum.density(grid, sigma).value.max() for spectrum in drawn)
    axes.set_ylim(FLOOR * min(peak(spectrum.size, sigma) for spectrum in drawn), 2 * top)
    axes.set_xlabel(f"eigenvalue λ at the last iteration  (kernel width σ = {sigma:.2g})")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    axes.legend(fontsize=8, title=sticks_note(drawn))
    return figure
