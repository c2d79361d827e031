"""Loss and accuracy on straight lines through parameter space, all curves of a store on one axis."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.render.style import LOG_FROM, NOW_COLOR, PATH_COLOR, TEST_COLOR

ANNOTATED = 3
"""Stores with more curves show neither barriers nor stationary points, which would cover each other."""
STYLES = {"train": "-", "test": "--"}


def curves_figure(curves: xr.Dataset, choices: dict, view: dict, title: str) -> Figure:
    """Return loss and, where there is one, accuracy against alpha.

    Args:
        choices: the config's ``figures``; ``scale`` and ``maximum`` are used.
        view: intervals ``x`` and ``loss`` that the axes are to show; either may be missing.
    """
    accuracy = "accuracy" in curves
    size = {"figsize": (7.2, 6.4 if accuracy else 4.6), "layout": "constrained"}
    figure, grid = plt.subplots(
        1 + accuracy, 1, **size, sharex=True, squeeze=False, height_ratios=[3, 2][: 1 + accuracy]
    )
    above, below = grid[0, 0], grid[-1, 0]
    limits = _loss_limits(curves, choices, view)
    _draw_losses(above, curves, limits)
    if accuracy:
        _draw_accuracies(below, curves)
    alpha = curves["alpha"]
    above.set_xlim(*view.get("x", (alpha.values[0], alpha.values[-1])))
    below.set_xlabel(f"α ({alpha.attrs['long_name'].removeprefix('position: ')})")
    for axes in grid[:, 0]:
        axes.grid(alpha=0.3)
        for end in curves.attrs["ends"] or (0,):
            axes.axvline(end, color=NOW_COLOR, linewidth=0.8, linestyle=":")
    _label_ends(above, curves)
    _draw_legend(above, curves)
    figure.suptitle(title, fontsize=11)
    return figure


def _lines(curves: xr.Dataset) -> Iterator[tuple[int, str, str, dict]]:
    """Yield (curve, split, colour, looks) in the order of drawing; one curve alone has the colours of its splits."""
    count = curves.sizes["curve"]
    palette = plt.colormaps["tab10" if count <= 10 else "viridis"]
    for k in range(count):
        for split in curves["split"].values[::-1]:
            color = palette(k if count <= 10 else k / (count - 1))
            if count == 1:
                color = PATH_COLOR if split == "train" else TEST_COLOR
            yield k, split, color, {"linestyle": STYLES.get(split, "-"), "linewidth": 1.6 if split == "train" else 1.1}


def _loss_limits(curves: xr.Dataset, choices: dict, view: dict) -> tuple[float, float, bool]:
    """Return the drawn interval of losses and whether its scale is logarithmic."""
    low, high = view.get("x", (-np.inf, np.inf))
    loss = curves["loss"].values[:, :, (curves["alpha"].values >= low) & (curves["alpha"].values <= high)]
    finite = loss[np.isfinite(loss)]
    bottom, top = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    top = min(top, choices.get("maximum", np.inf))
    bottom, top = view.get("loss", (min(bottom, top), top))
    log = choices["scale"] == "log" or (choices["scale"] == "auto" and bottom > 0 and top / bottom > LOG_FROM)
    if log:
        bottom = max(bottom, top * 1e-12, 1e-300)
    return bottom, top if top > bottom else bottom + max(abs(bottom), 1.0) * 1e-6, log


def _draw_losses(axes: Axes, curves: xr.Dataset, limits: tuple[float, float, bool]) -> None:
    low, high, log = limits
    axes.set_yscale("log" if log else "linear")
    room = (high / low) ** 0.06 if log else 0.06 * (high - low)
    axes.set_ylim(*((low / room, high * room) if log else (low - room, high + room)))
    alpha, noted = curves["alpha"].values, curves.sizes["curve"] <= ANNOTATED
    for k, split, color, looks in _lines(curves):
        one = curves.isel(curve=k).sel(split=split)
        loss = one["loss"].values
        axes.plot(alpha, np.where(np.isfinite(loss), loss, np.nan), color=color, **looks)
        _mark_edges(axes, alpha, loss, color)
        if split == "train" and noted:
            at = one["stationary"].values == 1
            axes.plot(alpha[at], loss[at], "o", color=color, markerfacecolor="white", markersize=5)
            _draw_barrier(axes, one, color)
    _draw_guess(axes, curves.attrs["random_guess"])
    axes.set_ylabel("loss (log scale)" if log else "loss")
    axes.yaxis.set_major_formatter(plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _mark_edges(axes: Axes, alpha: np.ndarray, loss: np.ndarray, color: object) -> None:
    """Mark points beyond the drawn losses by triangles at the edge, and NaN and inf by crosses at the top."""
    low, high = axes.get_ylim()
    looks = {"linestyle": "none", "transform": axes.get_xaxis_transform(), "color": color, "markersize": 5}
    for there, marker, height in (
        (np.isfinite(loss) & (loss > high), "^", 0.975),
        (np.isfinite(loss) & (loss < low), "v", 0.025),
        (~np.isfinite(loss), "x", 0.975),
    ):
        axes.plot(alpha[there], np.full(there.sum(), height), marker=marker, **looks)


def _draw_barrier(axes: Axes, one: xr.Dataset, color: object) -> None:
    """Draw an arrow from the higher end to the highest point between the ends, where there is something to climb."""
    barrier = float(one["barrier"])
    if not (np.isfinite(barrier) and barrier > 0):
        return
    alpha, loss = one["alpha"].values, one["loss"].values
    path = (alpha >= float(one["barrier_from"])) & (alpha <= float(one["barrier_to"]))
    top = np.flatnonzero(path)[loss[path].argmax()]
    base = loss[top] - barrier
    ends = [float(one["barrier_from"]), float(one["barrier_to"])]
    axes.plot(ends, [base, base], color=color, linewidth=0.8, linestyle=":")
    arrow = {"arrowstyle": "<->", "color": color, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (alpha[top], loss[top]), (alpha[top], base), arrowprops=arrow, annotation_clip=True)
    middle = np.sqrt(base * loss[top]) if axes.get_yscale() == "log" else (base + loss[top]) / 2
    told = {"textcoords": "offset points", "va": "center", "fontsize": 8, "annotation_clip": True}
    axes.annotate(f"barrier {barrier:.3g}", (alpha[top], middle), (5, 0), color=color, **told)


def _draw_guess(axes: Axes, guess: float | None) -> None:
    """Draw the loss of a random guess, or say where it is when it is not in view."""
    if guess is None:
        return
    low, high = axes.get_ylim()
    text = f"random guess, log C = {guess:.3g}"
    if low < guess < high:
        axes.axhline(guess, color="0.3", linewidth=1, linestyle="-.")
        place, height = {"va": "bottom"}, guess
        axes.text(
            0.995, height, text, transform=axes.get_yaxis_transform(), ha="right", fontsize=8, color="0.3", **place
        )
    else:
        where, height, va = ("above", 0.99, "top") if guess >= high else ("below", 0.01, "bottom")
        looks = {"ha": "right", "va": va, "fontsize": 8, "color": "0.3"}
        axes.text(0.995, height, f"{text}, is {where}", transform=axes.transAxes, **looks)


def _draw_accuracies(axes: Axes, curves: xr.Dataset) -> None:
    for k, split, color, looks in _lines(curves):
        axes.plot(
            curves["alpha"].values, curves["accuracy"].isel(curve=k).sel(split=split).values, color=color, **looks
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("accuracy")


def _label_ends(axes: Axes, curves: xr.Dataset) -> None:
    """Write what lies at the marked positions above the axes."""
    attrs = curves.attrs
    names = [f"from: {attrs['from']}", f"to: {attrs['to']}"] if attrs["ends"] else [f"θ_c: {attrs['center']}"]
    ends = axes.secondary_xaxis("top")
    ends.set_xticks(attrs["ends"] or [0], names)
    for label in ends.get_xticklabels():
        label.set_fontsize(8)


def _draw_legend(axes: Axes, curves: xr.Dataset) -> None:
    """Name curves with their numbers of stationary points, splits, and what markers mean."""
    counts = curves["stationary_points"].sel(split="train").values.astype(int)
    handles, several = [], curves.sizes["curve"] > 1
    for k, split, color, looks in _lines(curves):
        label = f"{curves['curve'].values[k]} [{counts[k]}]" if several else f"{split} samples"
        if not several or split == "train":
            handles.append(Line2D([], [], color=color, **(looks if not several else {"linewidth": 1.6}), label=label))
    if several:
        handles += [Line2D([], [], color="0.3", linestyle=STYLES.get(s, "-"), label=f"{s} samples")
                    for s in curves["split"].values]  # fmt: skip
    circle = {"color": "0.3", "marker": "o", "linestyle": "none", "markerfacecolor": "white", "markersize": 5}
    told = "[n] stationary points, train" if several else f"{counts[0]} stationary point(s), train"
    handles.append(Line2D([], [], **(circle if curves.sizes["curve"] <= ANNOTATED else {"alpha": 0}), label=told))
    low, high = axes.get_ylim()
    loss = curves["loss"].values
    for marker, there, text in (("^", np.isfinite(loss) & ((loss > high) | (loss < low)), "beyond the drawn losses"),
                                ("x", ~np.isfinite(loss), "NaN or inf")):  # fmt: skip
        if there.any():
            label = f"{text}: {int(there.sum())} of {loss.size}"
            handles.append(Line2D([], [], color="0.3", marker=marker, linestyle="none", markersize=5, label=label))
    below = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False, "fontsize": 8}
    axes.legend(handles=handles, **below)
