"""Loss and accuracy on straight lines through parameter space, all curves of a store on one axis."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.render.registry import FigureSpec
from lossatlas.render.scale import LossScale
from lossatlas.render.style import CHOICES, NOTE, NOW_COLOR, PATH_COLOR, TEST_COLOR, nonfinite_note, plain

BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
"""What lies behind text, so that it can be read where it crosses curves."""
ANNOTATED = 3
"""Stores with more curves do not show where stationary points lie; barriers are drawn of a single curve alone."""
STYLES = {"train": "-", "test": "--"}

CURVE = FigureSpec(
    kind="curve",
    needs=("curves",),
    log="curves",
    caption="Loss and accuracy on lines through parameter space. Circles are stationary points, filled ones "
    "those above noise, from which the family is named (Li et al. 2024); an arrow shows the barrier, from the "
    "higher end to the highest point between the ends. Black, where derivatives were taken: first-order (dotted) and "
    "second-order (solid) approximations.",
    details="Dash-dotted is the loss of a random guess among the classes. Triangles at the edge are losses beyond the "
    "axis; crosses are NaN or infinite. Squares are points where interpolated variances of BatchNorm were clipped at "
    "zero; they count for no stationary point, family or minimum.",
)


def curve_figure(curves: xr.Dataset, choices: dict = CHOICES, title: str = "") -> Figure:
    """Return loss, accuracy where there is one, and the user's own metrics against alpha.

    Args:
        choices: the config's ``figures``, of which ``scale`` and ``maximum`` are used, and ``view``: intervals ``x``
            and ``loss`` that the axes are to show; either may be missing.
    """
    view = choices.get("view", {})
    metrics = [*(["accuracy"] if "accuracy" in curves else []), *_own_metrics(curves)]
    size = {"figsize": (7.2, 4.6 + 1.8 * len(metrics)), "layout": "constrained"}
    heights = [3, *[2] * len(metrics)]
    figure, grid = plt.subplots(len(heights), 1, **size, sharex=True, squeeze=False, height_ratios=heights)
    above, below = grid[0, 0], grid[-1, 0]
    _draw_losses(above, curves, _loss_scale(curves, choices, view))
    for axes, name in zip(grid[1:, 0], metrics, strict=True):
        _draw_metric(axes, curves, name)
    alpha = curves["alpha"]
    above.set_xlim(*view.get("x", (alpha.values[0], alpha.values[-1])))
    below.set_xlabel(f"α ({alpha.attrs['long_name'].removeprefix('position: ')})")
    for axes in grid[:, 0]:
        axes.grid(alpha=0.3)
        for end in curves.attrs.get("ends") or (0,):
            axes.axvline(end, color=NOW_COLOR, linewidth=0.8, linestyle=":")
    _label_ends(above, curves)
    handles = _legend(curves, above.get_ylim())
    longest = max(len(handle.get_label()) for handle in handles)
    columns = 3 if longest <= 30 else 2 if longest <= 50 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
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


def _loss_scale(curves: xr.Dataset, choices: dict, view: dict) -> LossScale:
    """Return the scale of the interval of losses that is drawn."""
    low, high = view.get("x", (-np.inf, np.inf))
    loss = curves["loss"].values[:, :, (curves["alpha"].values >= low) & (curves["alpha"].values <= high)]
    finite = loss[np.isfinite(loss)]
    bottom, top = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    top = min(top, choices.get("maximum", np.inf))
    bottom, top = view.get("loss", (min(bottom, top), top))
    return LossScale.of(bottom, top, choices)


def _draw_losses(axes: Axes, curves: xr.Dataset, scale: LossScale) -> None:
    low, high = scale.low, scale.high
    axes.set_yscale("log" if scale.log else "linear")
    room = (high / low) ** 0.06 if scale.log else 0.06 * (high - low)
    axes.set_ylim(*((low / room, high * room) if scale.log else (low - room, high + room)))
    alpha, noted = curves["alpha"].values, curves.sizes["curve"] <= ANNOTATED
    for k, split, color, looks in _lines(curves):
        one = curves.isel(curve=k).sel(split=split)
        loss = one["loss"].values
        axes.plot(alpha, np.where(np.isfinite(loss), loss, np.nan), color=color, **looks)
        _mark_edges(axes, alpha, loss, color)
        axes.plot(alpha[_alone(loss)], loss[_alone(loss)], ".", color=color)
        clipped = _clipped(one)
        axes.plot(alpha[clipped], loss[clipped], "s", color=color, markerfacecolor="none", markersize=5)
        if split == "train":
            _draw_approximations(axes, one)
        if split == "train" and noted:
            for name, fill in (("stationary", "white"), ("turning", color)):
                at = one[name].values == 1
                axes.plot(alpha[at], loss[at], "o", color=color, markerfacecolor=fill, markersize=5)
            if curves.sizes["curve"] == 1:
                _draw_barrier(axes, one, color)
    _draw_guess(axes, curves.attrs.get("random_guess"))
    axes.set_ylabel(scale.label)
    axes.yaxis.set_major_formatter(plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))


def _clipped(curves: xr.Dataset) -> np.ndarray:
    """Return at which points interpolated variances were clipped, bool (point,) of one curve or (curve, point)."""
    none = np.zeros(curves.sizes["alpha"], bool)
    return curves["clipped_variances"].values > 0 if "clipped_variances" in curves else none


def _draw_approximations(axes: Axes, one: xr.Dataset) -> None:
    """Draw what slope and curvature say of the loss around each point where they are known (Li et al. 2024, Eq. 1)."""
    if "slope" not in one:
        return
    alpha = one["alpha"].values
    known = np.flatnonzero(np.isfinite(one["slope"].values))
    between = np.diff(alpha[known])
    reach = between.min() / 2 if between.size else (alpha[-1] - alpha[0]) / 20
    step = np.linspace(-reach, reach, 21)
    for at in known:
        loss, slope, curvature = (float(one[name][at]) for name in ("loss", "slope", "curvature"))
        first = loss + slope * step
        axes.plot(alpha[at] + step, first, color=NOW_COLOR, linewidth=0.9, linestyle=":", zorder=3)
        axes.plot(alpha[at] + step, first + curvature * step**2 / 2, color=NOW_COLOR, linewidth=0.9, zorder=3)


def _alone(values: np.ndarray) -> np.ndarray:
    """Return which values are finite between others that are not, shape (point,): no line shows them."""
    padded = np.pad(np.isfinite(values), 1)
    return padded[1:-1] & ~padded[:-2] & ~padded[2:]


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
    told = {"textcoords": "offset points", "va": "center", "fontsize": 8, "annotation_clip": True, "bbox": BEHIND}
    axes.annotate(f"barrier {barrier:.3g}", (alpha[top], middle), (5, 0), color=color, **told)


def _draw_guess(axes: Axes, guess: float | None) -> None:
    """Draw the loss of a random guess, or say where it is when it is not in view."""
    if guess is None:
        return
    low, high = axes.get_ylim()
    text, looks = f"random guess, log C = {guess:.3g}", {"ha": "right", "fontsize": 8, "color": "0.3", "bbox": BEHIND}
    if low < guess < high:
        axes.axhline(guess, color="0.3", linewidth=1, linestyle="-.")
        axes.annotate(text, (0.99, guess), (0, 3), axes.get_yaxis_transform(), "offset points", va="bottom", **looks)
    else:
        where, height, va = ("above", 0.98, "top") if guess >= high else ("below", 0.02, "bottom")
        axes.text(0.99, height, f"{text}, is {where}", transform=axes.transAxes, va=va, **looks)


def _own_metrics(curves: xr.Dataset) -> list[str]:
    """Return the names of the user's own metrics."""
    known = {"loss", "accuracy", "loss_standard_error", "stationary", "turning", "slope", "curvature"}
    known |= {"difference_error"}
    return [str(name) for name, array in curves.items() if array.dims == curves["loss"].dims and name not in known]


def _draw_metric(axes: Axes, curves: xr.Dataset, name: str) -> None:
    # Outputs that are NaN have no place of the largest one: what is made of them says nothing.
    values, alpha = curves[name].where(~np.isnan(curves["loss"])), curves["alpha"].values
    for k, split, color, looks in _lines(curves):
        one = values.isel(curve=k).sel(split=split).values
        axes.plot(alpha, np.where(np.isfinite(one), one, np.nan), color=color, **looks)
        axes.plot(alpha[_alone(one)], one[_alone(one)], ".", color=color)
    if name == "accuracy":  # crosses lie above 1
        axes.set_ylim(-0.02, 1.02 if np.isfinite(values).all() else 1.12)
    for k, split, color, _ in _lines(curves):  # when all are drawn, and with them the limits known
        _mark_edges(axes, alpha, values.isel(curve=k).sel(split=split).values, color)
    if not np.isfinite(values).all():
        note = nonfinite_note(values.values, "crosses")
        axes.text(0.01, 0.04, note, transform=axes.transAxes, va="bottom", **NOTE)
    axes.set_ylabel(name)


def _label_ends(axes: Axes, curves: xr.Dataset) -> None:
    """Write what lies at the marked positions above the axes."""
    attrs, marked, (low, high) = curves.attrs, curves.attrs.get("ends"), axes.get_xlim()
    names = [f"from: {attrs['from']}", f"to: {attrs['to']}"] if marked else [f"$\\theta_c$: {attrs['center']}"]
    ends = axes.secondary_xaxis("top")
    ends.set_xticks(marked or [0], names)
    for label in ends.get_xticklabels():
        label.set_fontsize(8)
    if marked:  # names grow towards where there is room
        sides = ("left", "right") if 0.6 * (high - low) < 1 else ("right", "left")
        for label, side in zip(ends.get_xticklabels(), sides, strict=True):
            label.set_horizontalalignment(side)


def mean_with_error(curves: xr.Dataset, name: str) -> str:
    """Return a mean over the curves of one split and, where there are several, its standard error: ``2.4 ± 0.2``."""
    mean, error = float(curves[f"mean_{name}"]), float(curves[f"mean_{name}_error"])
    return f"{mean:.3g} ± {error:.1g}" if np.isfinite(error) else f"{mean:.3g}"


def _legend(curves: xr.Dataset, shown: tuple[float, float]) -> list[Line2D]:
    """Return entries that name curves, with their numbers of stationary points, splits, and what markers mean."""
    train, names = curves.sel(split="train"), curves["curve"].values
    counts, barriers = train["stationary_points"].values.astype(int), train["barrier"].values
    several, loss = curves.sizes["curve"] > 1, curves["loss"].values
    families = [curves.attrs["families"][int(number)] for number in train["family"].values]
    handles = []
    for k, split, color, looks in _lines(curves):
        if several and split == "train":
            barrier = f", barrier {barriers[k]:.3g}" if barriers[k] > 0 else ""
            handles.append(
                Line2D(
                    [], [], color=color, linewidth=1.6, label=f"{plain(names[k])} [{counts[k]}] {families[k]}{barrier}"
                )
            )
        elif not several:
            handles.append(Line2D([], [], color=color, **looks, label=f"{split} samples"))
    handles = handles if several else handles[::-1]
    if several:
        styles = ((split, STYLES.get(split, "-")) for split in curves["split"].values)
        handles += [Line2D([], [], color="0.3", linestyle=style, label=f"{split} samples") for split, style in styles]
    dots = {"color": "0.3", "linestyle": "none", "markersize": 5}
    circle = {"marker": "o", "markerfacecolor": "white"} if curves.sizes["curve"] <= ANNOTATED else {}
    mean = f"stationary points, train: {mean_with_error(train, 'stationary_points')}"
    handles.append(Line2D([], [], **dots, **circle, label=f"[n]: {mean}" if several else mean))
    above = {**dots, **({"marker": "o"} if circle else {})}
    named = "name of the family" if several else f"{families[0]}"
    handles.append(Line2D([], [], **above, label=f"above noise: {named}"))
    if several:
        monotonic = f"{int(train['monotonic_curves'])} of {len(names)} monotonic"
        steps = f"share of steps {mean_with_error(train, 'monotonicity')}"
        handles.append(Line2D([], [], linestyle="none", label=f"{monotonic}; {steps}"))
    if clipped := int(_clipped(curves).sum()):
        looks = {**dots, "marker": "s", "markerfacecolor": "none"}
        handles.append(Line2D([], [], **looks, label=f"variances clipped: {clipped} points, not counted"))
    if "slope" in curves:
        handles.append(Line2D([], [], color=NOW_COLOR, linewidth=0.9, label="second-order approximation"))
        handles.append(Line2D([], [], color=NOW_COLOR, linewidth=0.9, linestyle=":", label="first-order approximation"))
    beyond = np.isfinite(loss) & ((loss < shown[0]) | (loss > shown[1]))
    for marker, there, text in (("^", beyond, "beyond the axis"), ("x", ~np.isfinite(loss), "NaN or inf")):
        if there.any():
            label = f"{text}: {int(there.sum())} of {loss.size} points"
            handles.append(Line2D([], [], **dots, marker=marker, label=label))
    return handles
