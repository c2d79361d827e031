"""Pictures and videos, decoded again and compared with what they were made from."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from lossatlas.config import load, resolve
from lossatlas.config.run import Run
from lossatlas.krylov import lanczos, probe_vectors
from lossatlas.render import registry, report, style, targets, video
from lossatlas.render.figures.contour import contour_figure
from lossatlas.render.figures.curvature_map import curvature_figure
from lossatlas.render.figures.line_scans import curve_figure
from lossatlas.render.figures.metrics import metrics_figure
from lossatlas.render.figures.overlaps import overlap_figure
from lossatlas.render.figures.random_walk import null_figure
from lossatlas.render.figures.spectra_between import between_figure
from lossatlas.render.figures.spectrum import counts_figure, density_figure, variants_figure
from lossatlas.render.figures.surface import surface_figure
from lossatlas.render.figures.training_curve import loss_figure
from lossatlas.render.frame import FrameRenderer
from lossatlas.render.scale import logarithmic, loss_scale
from lossatlas.render.style import HEIGHT, WIDTH, percent

CHOICES = {"scale": "auto", "levels": 12, "elevation": 35, "azimuth": -60}


def datasets(surface=None, iterations=12):
    x, y = np.linspace(-2, 2, 15), np.linspace(-1, 1, 11)
    loss = (0.5 + x[None, :] ** 2 + y[:, None] ** 2) if surface is None else surface(x[None, :], y[:, None])
    t = np.linspace(1, 0, iterations)
    path_x, path_y = 1.6 * t, 0.7 * t * np.cos(4 * t)
    on_path = 0.5 + path_x**2 + path_y**2
    landscape = xr.Dataset(
        {
            "loss": (("split", "y", "x"), np.stack([loss, loss + 0.1])),
            "path_x": ("iteration", path_x),
            "path_y": ("iteration", path_y),
            "path_projected_loss": (("split", "iteration"), np.stack([on_path, on_path])),
            "path_true_loss": (("split", "iteration"), np.stack([on_path + 0.05, on_path + 0.1])),
            "path_true_accuracy": (("split", "iteration"), np.stack([1 - t / 2, 1 - t])),
        },
        coords={"x": x, "y": y, "split": ["train", "test"], "iteration": np.arange(iterations)},
        attrs={"x_label": "PCA 1", "y_label": "PCA 2", "variance_share": [0.9, 0.05]},
    )
    trajectory = xr.Dataset({"batch_loss": ("iteration", on_path + 0.2 * np.sin(9 * t))})
    return landscape, trajectory


def read(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_the_video_holds_every_frame_and_only_moving_parts_change(tmp_path):
    renderer = FrameRenderer(*datasets(), CHOICES, "test: plane pca")
    frames = [renderer.render(row)[:, :, :3].copy() for row in range(len(renderer))]
    video.write_video(tmp_path / "v.mp4", (renderer.render(row) for row in range(len(renderer))), fps=7)
    meta, decoded = read(tmp_path / "v.mp4")
    assert meta["size"] == (1280, 720) == (WIDTH, HEIGHT)
    assert meta["fps"] == 7
    assert meta["codec"].startswith("h264")
    assert len(decoded) == len(frames) == 12
    for ours, theirs in zip(frames, decoded, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 3, "the decoded frame is the frame that was drawn"
    changed = (np.abs(frames[0].astype(int) - frames[-1]) > 30).any(axis=2)
    assert 200 < changed.sum() < 0.05 * changed.size
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_a_blitted_frame_equals_the_figure_drawn_anew():
    """Drawing everything in one go, without kept pixels, gives the same picture."""
    renderer = FrameRenderer(*datasets(), CHOICES, "test")
    blitted = renderer.render(7)[:, :, :3].copy()
    for _, artist in renderer._moving:
        artist.set_animated(False)
    with style.style():
        renderer.canvas.draw()
    anew = np.asarray(renderer.canvas.buffer_rgba())[:, :, :3]
    different = (np.abs(blitted.astype(int) - anew) > 60).any(axis=2)
    assert different.mean() < 2e-3


def red(pixels):
    r, g, b = (pixels[:, :, k].astype(int) for k in range(3))
    return (r > 180) & (g < 90) & (b < 90)


def test_the_path_grows_on_both_panels():
    renderer = FrameRenderer(*datasets(), CHOICES, "test")
    first, last = red(renderer.render(0).copy()), red(renderer.render(11).copy())
    for half in (np.s_[:, : WIDTH // 2], np.s_[: HEIGHT // 2, WIDTH // 2 :]):
        assert last[half].sum() > first[half].sum() + 100


def test_the_surface_path_starts_where_the_contour_path_starts():
    """In 3-D the path's first point is drawn at its coordinates and at the loss of its projection."""
    landscape, trajectory = datasets()
    renderer = FrameRenderer(landscape, trajectory, CHOICES, "test")
    renderer.render(5)
    x, y, z = renderer._lines3d[0].get_data_3d()
    assert np.allclose(x, landscape["path_x"][:6])
    assert np.allclose(y, landscape["path_y"][:6])
    assert np.allclose(z, landscape["path_projected_loss"].sel(split="train")[:6])


def with_others(landscape, evaluated):
    """Two other runs: one with three points at the lower edge, one with two in the middle."""
    x, y = np.array([-1.5, 0, 1.5, 0.2, 0.4]), np.array([-0.9, -0.9, -0.9, 0.1, 0.1])
    found = landscape.assign(
        other_run=("other_checkpoint", ["b", "b", "b", "c", "c"]),
        other_iteration=("other_checkpoint", [0, 5, 30, 0, 2]),
        other_x=("other_checkpoint", x),
        other_y=("other_checkpoint", y),
    )
    height = 0.5 + x**2 + y**2
    return found.assign(other_projected_loss=(("split", "other_checkpoint"), [height] * 2)) if evaluated else found


@pytest.mark.parametrize("evaluated", [True, False])
def test_paths_of_other_runs_have_names_colours_and_heights(evaluated):
    landscape = with_others(datasets()[0], evaluated)
    b, c = style.other_paths(landscape)
    assert (b.run, c.run) == ("b", "c")
    assert b.color != c.color
    assert np.allclose(c.loss, 0.5 + c.x**2 + c.y**2, atol=1e-9 if evaluated else (0.286**2 + 0.2**2) / 4)
    with style.style():
        contours = contour_figure(landscape, CHOICES, "t")
        surface = surface_figure(landscape, CHOICES, "t")
    for figure, named in ((contours, "this run"), (surface, "this run")):
        legend = figure.axes[0].get_legend()
        assert [text.get_text() for text in legend.get_texts()] == [named, "b", "c"]
        figure.canvas.draw()
    (drawn,) = [line for line in contours.axes[0].get_lines() if line.get_label() == "b"]
    assert np.array_equal(drawn.get_xdata(), b.x)


def test_losses_of_other_runs_are_drawn_along_their_training():
    landscape, trajectory = datasets()
    losses = np.array([3.0, 2.0, 1.0, 0.5, np.inf])
    landscape = with_others(landscape, True).assign(other_true_loss=(("split", "other_checkpoint"), [losses] * 2))
    (axes,) = loss_figure(landscape, trajectory, CHOICES, "t").axes
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert drawn["b"].get_xdata().tolist() == [0, 5, 30]
    assert drawn["b"].get_ydata().tolist() == [3, 2, 1]
    assert np.isnan(drawn["c"].get_ydata()[1])
    assert axes.get_xlim() == (0, 30)
    plt.close("all")


def test_paths_of_other_runs_grow_in_the_video_and_end_whole():
    landscape, trajectory = datasets()
    renderer = FrameRenderer(with_others(landscape, True), trajectory, CHOICES, "test")
    lengths = []
    for row in (0, 3, 5, 11):
        renderer.render(row)
        lengths.append([len(line.get_xdata()) for line in renderer._others2d])
    assert lengths == [[1, 1], [1, 2], [2, 2], [3, 2]]


def broken(x, y):
    loss = 0.5 + x**2 + y**2
    return np.where(x > 1.2, np.nan, np.where(x < -1.2, np.inf, loss))


def test_nan_and_inf_are_hatched_counted_and_never_filled(tmp_path):
    landscape, _ = datasets(broken)
    with style.style():
        figure = contour_figure(landscape, CHOICES, "broken")
        axes = figure.axes[0]
        bad = int((~np.isfinite(landscape["loss"].sel(split="train"))).sum())
        assert any(f"{bad} of 165 points are NaN or inf" in text.get_text() for text in axes.texts)
        (hatched,) = [patch for patch in axes.patches if patch.get_hatch()]
        figure.canvas.draw()
        assert np.allclose(hatched.get_window_extent().bounds, axes.get_window_extent().bounds, atol=1)
        style.save(figure, [tmp_path / "contour.png"])
        solid = surface_figure(landscape, CHOICES, "broken")
        assert f"{bad} of 165 points are NaN or inf (holes)" in texts(solid.axes[0])
        style.save(solid, [tmp_path / "surface.png"])
    assert matplotlib.image.imread(tmp_path / "contour.png").std() > 0.05


def test_evaluated_points_are_dotted_and_the_title_says_how_good_the_rest_is():
    landscape, trajectory = datasets()
    evaluated = np.zeros((11, 15), bool)
    evaluated[::2, ::2] = True
    landscape["evaluated"], landscape["error"] = (("y", "x"), evaluated), ("split", [0.0042, 0.3])
    with style.style():
        figure = contour_figure(landscape, CHOICES, "test")
        surface = surface_figure(landscape, CHOICES, "test")
    assert figure.axes[0].get_title() == "test\n48 of 165 points evaluated, error ≤ 0.42 % of the range"
    assert surface.axes[0].get_title() == figure.axes[0].get_title()
    dots = {tuple(point) for line in figure.axes[0].get_lines() for point in line.get_xydata().round(9).tolist()}
    x, y = landscape["x"].values.round(9), landscape["y"].values.round(9)
    assert {(x[i], y[j]) for j in range(0, 11, 2) for i in range(0, 15, 2)} <= dots
    assert (x[1], y[1]) not in dots
    assert FrameRenderer(landscape, trajectory, CHOICES, "test").render(3).std() > 5
    unfinished = contour_figure(landscape.assign_attrs(finished=False), CHOICES, "test")
    assert unfinished.axes[0].get_title() == "test\npreview: 48 of 165 points evaluated"
    landscape["evaluated"][:] = True
    assert contour_figure(landscape, CHOICES, "test").axes[0].get_title() == "test"


def curvatures(landscape):
    """Eigenvalues on 5 x 3 points: the ratio grows with x, one point is unknown and one has not converged."""
    x, y = np.linspace(-2, 2, 5), np.linspace(-1, 1, 3)
    largest, smallest = np.full((3, 5), 4.0), np.tile(-np.arange(5.0), (3, 1))
    largest[0, 0] = smallest[0, 0] = np.nan
    converged = np.ones((3, 5))
    converged[0, 0], converged[2, 3] = np.nan, 0
    arrays = {"largest": largest, "smallest": smallest, "ratio": np.abs(smallest / largest)}
    arrays["largest_converged"] = converged
    arrays["smallest_converged"] = np.ones((3, 5))
    return xr.Dataset({name: (("y", "x"), values) for name, values in arrays.items()}, coords={"x": x, "y": y})


def test_the_curvature_is_mapped_with_unknown_and_unconverged_points():
    landscape, _ = datasets(broken)
    with style.style():
        figure = curvature_figure(curvatures(landscape), landscape, CHOICES, "test")
        figure.canvas.draw()
    axes, bar = figure.axes
    mesh = axes.collections[0].get_array()
    assert np.ma.getmaskarray(mesh).sum() == 1
    assert np.allclose(mesh[1], np.arange(5) / 4)
    assert any("1 of 15 points are NaN or inf" in text.get_text() for text in axes.texts)
    assert r"\lambda_\min" in bar.get_ylabel()
    (crossed,) = [line for line in axes.get_lines() if "not converged" in str(line.get_label())]
    assert crossed.get_xydata().tolist() == [[1.0, 1.0]]
    written = {float(text.get_text()) for text in axes.texts if "points" not in text.get_text()}
    assert written
    assert all(0.5 < loss < 3 for loss in written), "contours say their loss"
    assert crossed.get_label() == "not converged (1 of 15 points)"


def test_metrics_have_a_panel_each_with_the_path_and_what_is_nan():
    landscape, _ = datasets()
    gap = landscape["loss"].values.copy()
    gap[:, 0, 0] = np.nan
    landscape = landscape.assign(mine=(landscape["loss"].dims, gap), same=landscape["loss"] * 0 + 3)
    with style.style():
        figure = metrics_figure(landscape, {"metrics": ["mine", "same"]}, "test")
        figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        *(["accuracy"] if "accuracy" in landscape else []),
        "mine",
        "same: 3 wherever it is finite",
    ]
    assert any("1 of" in text.get_text() for text in panels[-2].texts)
    assert not panels[-1].texts
    for axes in panels:
        drawn = axes.get_lines()[-2]
        assert np.array_equal(drawn.get_xdata(), landscape["path_x"].values)
    plt.close("all")


def test_checkpoints_that_axes_lead_to_are_marked_and_named():
    landscape = datasets()[0].assign_attrs(end_names=["iteration 0 of b", "last"], end_points=[[1.0, 0.0], [0.25, 0.5]])
    (axes, _) = contour_figure(landscape, CHOICES, "t").axes
    marked = [line.get_xydata()[0].tolist() for line in axes.get_lines() if line.get_marker() == "D"]
    assert marked == [[1.0, 0.0], [0.25, 0.5]]
    assert {"iteration 0 of b", "last"} <= {text.get_text() for text in axes.texts}
    plt.close("all")


def test_a_trained_curve_is_drawn_on_its_plane():
    curve = [[0.0, 0.0], [0.5, 0.6], [1.0, 0.0]]
    (axes, _) = contour_figure(datasets()[0].assign_attrs(connection=curve), CHOICES, "t").axes
    assert curve in [line.get_xydata().tolist() for line in axes.get_lines()]
    plt.close("all")


def test_a_curvature_of_nothing_but_nan_is_drawn():
    landscape, _ = datasets(lambda x, y: np.full((11, 15), np.nan))
    unknown = curvatures(landscape) * np.nan
    with style.style():
        curvature_figure(unknown, landscape, CHOICES, "nan").canvas.draw()


def test_a_line_has_three_panels_over_one_axis():
    position = np.linspace(-0.1, 1.1, 7)
    nodes = np.stack([np.array([[-1.0, 0.0, 5 + t], [-0.9, 0.1, 4 + t]]) for t in position])
    dims = ("position", "probe", "node")
    line = xr.Dataset(
        {
            "nodes": (dims, nodes),
            "weights": (dims, np.full_like(nodes, 1 / 3)),
            "residual_bounds": (dims, np.zeros_like(nodes)),
            "largest": ("position", nodes.max(axis=(1, 2))),
            "smallest": ("position", nodes.min(axis=(1, 2))),
            "loss": ("position", 1 + position * (1 - position)),
        },
        coords={"position": position},
        attrs={"parameters": 100, "from": "iteration 3", "to": "b, iteration 9"},
    )
    with style.style():
        figure = between_figure(line, CHOICES, "test")
        figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.axison and axes.get_ylabel()]
    labels = [axes.get_ylabel() for axes in panels]
    assert labels[:2] == ["loss", "eigenvalue λ"]
    assert {"density (log scale)", "trace of the Hessian"} <= set(labels)
    above, middle, below = (panels[labels.index(name)] for name in (*labels[:2], labels[2]))
    assert above.get_xlim() == middle.get_xlim() == below.get_xlim()
    assert len({round(axes.get_position().x1, 6) for axes in (above, middle, below)}) == 1
    (trace,) = [axes for axes in panels if axes.get_ylabel().startswith("trace")]
    low, high = middle.get_ylim()
    assert trace.get_ylim()[0] / trace.get_ylim()[1] == pytest.approx(low / high), "one zero for both scales"
    ends = [text.get_text() for axes in above.child_axes for text in axes.get_xticklabels()]
    assert ends == ["from: iteration 3", "to: b, iteration 9"]


def spectra_of(*eigenvalues):
    """Return the spectra of diagonal matrices, one for each iteration, by 3 probes and 30 steps."""
    arrays = {name: np.zeros((len(eigenvalues), 3, 30)) for name in ("nodes", "weights", "residual_bounds")}
    for i, values in enumerate(eigenvalues):
        operator = SimpleNamespace(size=200, dtype=np.dtype(float), matmat=partial(np.multiply, values))
        for p, run in enumerate(lanczos(operator, probe_vectors(200, range(3), i), 30)):
            for array, found in zip(arrays.values(), run.ritz(), strict=True):
                array[i, p] = found
    ends = {"smallest": arrays["nodes"].min(axis=(1, 2)), "largest": arrays["nodes"].max(axis=(1, 2))}
    return xr.Dataset(
        {name: (("iteration", "probe", "node"), array) for name, array in arrays.items()}
        | {name: ("iteration", values) for name, values in ends.items()},
        coords={"iteration": np.arange(len(eigenvalues))},
        attrs={"parameters": 200, "operator": "hessian", "parameter_patterns": ["*"]},
    )


SPIKED = np.concatenate([np.linspace(-1, 1, 195), [40.0, 60.0, 60.2, 100.0, -50.0]])


def test_isolated_eigenvalues_are_sticks_as_high_as_they_are_many():
    sigma = 1.0
    with style.style():
        figure = density_figure(spectra_of(SPIKED), {**CHOICES, "kernel_width": sigma})
        figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_position().x0 < 0.12, "what is not drawn takes no room"
    smooth, strokes = axes.get_lines()
    single = 1 / (200 * sigma * np.sqrt(2 * np.pi))
    assert np.allclose(strokes.get_xdata()[::3], [-50, 40, 60.1, 100])
    assert np.allclose(strokes.get_ydata()[1::3], single * np.array([1, 1, 2, 1]))
    assert [text.get_text() for text in axes.texts] == ["2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["iteration 0, 5 isolated"]
    assert np.trapezoid(smooth.get_ydata(), smooth.get_xdata()) == pytest.approx(195 / 200, rel=1e-2)


def test_isolated_eigenvalues_of_variants_are_sticks_and_those_on_a_line_dashes():
    spectra = spectra_of(SPIKED, np.where(SPIKED == 40, 45.0, SPIKED))
    one, other = spectra.isel(iteration=[1]), spectra.isel(iteration=[0])
    (axes,) = variants_figure(one, {"other": other}, {**CHOICES, "kernel_width": 1.0}).axes
    assert [line.get_xdata()[::3].round(1).tolist() for line in axes.get_lines()[1::2]] == [
        [-50, 45, 60.1, 100],
        [-50, 40, 60.1, 100],
    ]
    assert all(text.get_text().endswith("N = 200, 5 isolated") for text in axes.get_legend().get_texts())
    line = spectra.rename(iteration="position").assign(loss=("position", [1.0, 2.0]))
    below = between_figure(line.assign_attrs({"from": "a", "to": "b"})).axes[4]
    mesh, dashes = below.collections
    assert np.allclose(
        dashes.get_offsets(), [(i, x) for i, top in enumerate((40, 45)) for x in (-50, top, 60, 60.2, 100)]
    )
    assert mesh.get_array().max() > 1 / 200 / 2
    plt.close("all")


def test_extremes_whose_density_lies_below_the_figure_are_marked():
    spectra = spectra_of(np.linspace(-1, 1, 200), np.linspace(-1, 1, 200))
    spectra["nodes"][0, 0, -1], spectra["weights"][0, 0, -1] = 9.0, 1e-9
    spectra["largest"][0] = 9.0
    (axes,) = density_figure(spectra, CHOICES).axes
    marked = [line.get_xdata() for line in axes.get_lines() if line.get_marker() == "^"]
    assert np.array_equal(marked, [[9.0]])
    plt.close("all")


def test_counts_beyond_epsilon_hold_the_numbers_that_are_there():
    shifted = np.where(SPIKED == 40, -40.0, SPIKED)
    (axes,) = counts_figure(spectra_of(SPIKED, shifted), {**CHOICES, "epsilon": 5.0}).axes
    above, below = (line.get_ydata() for line in axes.get_lines())
    assert np.allclose(above, [4, 3]) and np.allclose(below, [1, 2])
    assert axes.get_legend().get_title().get_text() == "ε = 5"
    plt.close("all")


def test_a_surface_of_nothing_but_nan_is_drawn():
    landscape, trajectory = datasets(lambda x, y: np.full((11, 15), np.nan))
    assert FrameRenderer(landscape, trajectory, CHOICES, "nan").render(3).std() > 5


def test_scale_is_logarithmic_only_for_steep_surfaces():
    flat, steep = datasets()[0], datasets(lambda x, y: np.exp(4 * (x + y)))[0]
    assert not loss_scale(flat, CHOICES).log
    assert loss_scale(steep, CHOICES).log
    assert not loss_scale(steep, {**CHOICES, "scale": "linear"}).log
    positions, texts = loss_scale(steep, CHOICES).ticks()
    assert np.allclose(positions, np.log10([float(t) for t in texts]))
    clipped = loss_scale(steep, {**CHOICES, "maximum": 5.0})
    assert clipped.high == 5.0
    assert clipped.clipped
    assert np.nanmax(clipped(steep["loss"].values)) == pytest.approx(np.log10(5.0))


@pytest.mark.parametrize(
    ("low", "high", "choice", "log"),
    [
        *((1.0, 30.0, "auto", False), (1.0, 30.1, "auto", True), (0.0, 1e6, "auto", False), (-1.0, 1e6, "auto", False)),
        *((np.nan, np.nan, "auto", False), (1.0, 1e6, "linear", False), (0.0, 1.0, "log", True)),
    ],
)
def test_a_scale_is_logarithmic_where_positive_values_span_more_than_a_factor_of_30(low, high, choice, log):
    assert logarithmic(low, high, choice) == log


def test_figures_are_written_as_pdf_and_png_and_repeat_bit_for_bit(tmp_path):
    landscape, trajectory = datasets()
    for folder in ("a", "b"):
        with style.style():
            figure = loss_figure(landscape, trajectory, CHOICES, "test")
            style.save(figure, [tmp_path / folder / "loss.pdf", tmp_path / folder / "loss.png"])
    assert (tmp_path / "a/loss.pdf").read_bytes()[:5] == b"%PDF-"
    assert matplotlib.image.imread(tmp_path / "a/loss.png").shape[2] == 4
    for name in ("loss.pdf", "loss.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_axis_labels_carry_the_share_of_variance():
    figure = contour_figure(datasets()[0], CHOICES, "t")
    assert figure.axes[0].get_xlabel() == "PCA 1 (90.0 % of path variance)"
    assert [percent(s) for s in (0.9, 0.004, 1e-6, 0.0)] == ["90.0 %", "0.40 %", "<0.01 %", "0.00 %"]


def test_default_choices_are_the_configs():
    config = resolve({"runs": {"r": {"model": {"name": "lenet"}}}})
    assert config["runs"]["r"]["figures"] == style.CHOICES


OVER_CURVES = {"mean_stationary_points": 1.0, "mean_stationary_points_error": np.nan, "mean_monotonicity": 0.75,
               "mean_monotonicity_error": 0.05, "monotonic_curves": 2}  # fmt: skip


def line(loss, count=1, ends=(), guess=2.0, **attrs):
    """Return a store of curves as a dataset, all of one shape; the features are those of the shape alone."""
    alpha = np.linspace(-1, 2, len(loss))
    values = np.stack([np.stack([loss, loss + 0.1])] * count)
    stationary = np.zeros(values.shape, np.int8)
    stationary[..., len(loss) // 2] = 1
    feature = {"stationary_points": 1.0, "family": 1.0, "barrier": 1.5, "barrier_from": 0.0, "barrier_to": 1.0}
    return xr.Dataset(
        {
            "loss": (("curve", "split", "alpha"), values),
            "accuracy": (("curve", "split", "alpha"), np.full(values.shape, 0.5)),
            "stationary": (("curve", "split", "alpha"), stationary),
            "turning": (("curve", "split", "alpha"), stationary),
            **{name: (("curve", "split"), np.full(values.shape[:2], value)) for name, value in feature.items()},
            **{name: ("split", [value, value]) for name, value in OVER_CURVES.items()},
        },
        coords={
            "alpha": ("alpha", alpha, {"long_name": "position: 0 = from, 1 = to"}),
            "split": ["train", "test"],
            "curve": [f"curve {k + 1}" for k in range(count)],
        },
        attrs={"ends": list(ends), "random_guess": guess, "from": "iteration 0", "to": "iteration 9",
               "center": "iteration 9", "families": ["other", "w-peak"],
               **attrs},
    )  # fmt: skip


HILL = 2.0 - np.abs(np.linspace(-1, 2, 31) - 0.5) ** 2
BARRIER = np.where((np.linspace(-1, 2, 31) >= -0.01) & (np.linspace(-1, 2, 31) <= 1.01), HILL, 0.6)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def marked(axes, marker):
    """Return the positions that are marked at the edges."""
    return np.concatenate([drawn.get_xdata() for drawn in axes.lines if drawn.get_marker() == marker])


def test_a_curve_shows_its_barrier_stationary_points_and_the_random_guess():
    figure = curve_figure(line(BARRIER, ends=(0.0, 1.0), guess=1.2), CHOICES, "a title")
    above, below = figure.axes[:2]
    assert "barrier 1.5" in texts(above)
    assert "random guess, log C = 1.2" in texts(above)
    assert any(np.all(np.asarray(drawn.get_ydata()) == 1.2) for drawn in above.lines)
    assert marked(above, "o") == pytest.approx([0.5, 0.5])
    assert not marked(above, "^").size + marked(above, "x").size
    assert below.get_ylabel() == "accuracy"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["train samples", "test samples", "stationary points, train: 1", "above noise: w-peak"]
    assert above.get_yscale() == "linear"
    assert curve_figure(line(BARRIER), {**CHOICES, "scale": "log"}, "").axes[0].get_yscale() == "log"
    plt.close("all")


def test_own_metrics_of_curves_have_panels_below():
    curves = line(BARRIER)
    curves["margin"] = 2 * curves["loss"]
    figure = curve_figure(curves, CHOICES, "")
    assert [axes.get_ylabel() for axes in figure.axes[1:3]] == ["accuracy", "margin"]
    train = [drawn for drawn in figure.axes[2].lines if len(drawn.get_xdata()) == len(BARRIER)]
    assert any(np.array_equal(drawn.get_ydata(), 2 * curves["loss"].values[0, 0]) for drawn in train)
    plt.close("all")


def test_losses_beyond_the_view_and_nan_and_inf_are_marked_and_counted():
    loss = np.linspace(0.1, 9.1, 31)
    loss[[3, 5]] = np.nan, np.inf
    data = line(loss, guess=40.0)
    above, *_ = (figure := curve_figure(data, {**CHOICES, "view": {"loss": [1, 5], "x": [-0.5, 1]}}, "")).axes
    low, high = above.get_ylim()
    alpha, test = data["alpha"].values, loss + 0.1
    assert 0.7 < low < 1
    assert 5 < high < 5.3
    expected = [alpha[np.isfinite(one) & (one > high)] for one in (test, loss)]
    assert np.array_equal(marked(above, "^"), np.concatenate(expected))
    expected = [alpha[np.isfinite(one) & (one < low)] for one in (test, loss)]
    assert np.array_equal(marked(above, "v"), np.concatenate(expected))
    assert np.array_equal(marked(above, "x"), np.tile(alpha[[3, 5]], 2))
    assert above.get_xlim() == (-0.5, 1)
    assert "random guess, log C = 40, is above" in texts(above)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "NaN or inf: 4 of 62 points" in labels
    # The accuracy of NaN outputs says nothing and is not drawn; where outputs are inf it stays.
    accuracy = figure.axes[1]
    assert np.array_equal(marked(accuracy, "x"), np.tile(alpha[[3]], 2))
    assert "2 of 62 points are NaN or inf (crosses)" in texts(accuracy)
    maximum = curve_figure(data, {**CHOICES, "maximum": 3.0}, "").axes[0]
    assert 3 < maximum.get_ylim()[1] < 3.3
    plt.close("all")


def test_a_logarithmic_axis_holds_exploding_losses_and_the_smallest_ones():
    low, high = curve_figure(line(np.geomspace(1e15, 0.5, 31)), CHOICES, "").axes[0].get_ylim()
    assert low < 0.5 < 1e15 < high
    zeros = curve_figure(line(np.linspace(0.0, 5.0, 31)), {**CHOICES, "scale": "log"}, "").axes[0]
    assert 0 < zeros.get_ylim()[0] < 1e-11
    plt.close("all")


def test_all_curves_of_a_store_share_one_axis():
    figure = curve_figure(line(BARRIER, count=5), CHOICES, "")
    above = figure.axes[0]
    drawn = [one for one in above.lines if len(one.get_xdata()) == 31 and one.get_linestyle() in ("-", "--")]
    assert len(drawn) == 10
    assert len({one.get_color() for one in drawn}) == 5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["curve 1 [1] w-peak, barrier 1.5", "curve 2 [1] w-peak, barrier 1.5"]
    assert "2 of 5 monotonic; share of steps 0.75 ± 0.05" in labels
    assert not any(text.startswith("barrier") for text in texts(above)), "five arrows would cover each other"
    plt.close("all")


def test_approximations_lie_around_their_points_and_clipped_points_are_marked():
    curves = line(BARRIER)
    known = np.full(curves["loss"].shape, np.nan)
    known[..., [10, 20]] = 2.0
    curves["slope"], curves["curvature"] = (curves["loss"].dims, known), (curves["loss"].dims, 3 * known)
    curves["clipped_variances"] = (("curve", "alpha"), np.where(np.arange(31) > 28, 3, 0)[None])
    figure = curve_figure(curves, CHOICES, "")
    above, alpha = figure.axes[0], curves["alpha"].values
    drawn = [one for one in above.lines if len(one.get_xdata()) == 21]
    assert len(drawn) == 4
    for one, at, second in zip(drawn, (10, 10, 20, 20), (0, 6, 0, 6), strict=True):
        step = np.asarray(one.get_xdata()) - alpha[at]
        assert (step[0], step[-1]) == pytest.approx((-0.5, 0.5)), "as far as halfway to the next"
        assert one.get_ydata() == pytest.approx(BARRIER[at] + 2 * step + second * step**2 / 2)
    assert marked(above, "s") == pytest.approx(np.tile(alpha[29:], 2))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "variances clipped: 2 points, not counted" in labels
    plt.close("all")


def test_curves_that_are_nowhere_finite_are_drawn():
    figure = curve_figure(line(np.full(31, np.nan), guess=None), CHOICES, "")
    assert marked(figure.axes[0], "x").size == 62
    plt.close("all")


def test_a_path_is_drawn_beside_a_random_walk():
    time, components = np.arange(20), np.arange(1, 6)
    walk = np.cos(np.pi * np.outer(time + 0.5, components) / 20) / components
    shares = 0.6 / components**2
    per, path = ("component",), ("iteration", "component")
    directions = xr.Dataset(
        {
            "path_coordinate": (path, walk * np.array([1, -0.5, 1, 1, 1])),
            "walk_coordinate": (path, walk),
            "path_share": (per, np.array([0.9, 0.08, 0.01, 0.0, 0.0])),
            "walk_share": (per, shares),
            "walk_correlation": (per, np.array([0.991, 0.5, 0.2, 0.1, 0.0])),
        },
        coords={"iteration": 10 * time, "component": components},
        attrs={"walk_similarity": 0.8764, "walk_spread": 3.21},
    )
    with style.style():
        figure = null_figure(directions, CHOICES, "r: directions pca")
        figure.canvas.draw()
    ours, theirs, spectrum = figure.axes[:3]
    assert "similarity 0.876, spread 3.21 times" in figure.get_suptitle()
    assert np.allclose(theirs.collections[0].get_offsets(), walk[:, :2])
    assert np.allclose(ours.collections[0].get_offsets()[:, 1], -0.5 * walk[:, 1])
    assert ours.get_xlabel() == "component 1 (90.0 %)"
    assert [text.get_text() for text in spectrum.texts] == ["0.99", "0.50", "0.20", "0.10", "0.00"]
    assert np.allclose(spectrum.get_lines()[1].get_ydata(), shares)
    with style.style():
        figure = null_figure(
            directions.isel(component=slice(0, 1)).assign_attrs(walk_similarity=np.nan), CHOICES, "one"
        )
        figure.canvas.draw()
    assert "similarity" not in figure.get_suptitle()


@pytest.mark.parametrize("policy", ["frozen: running statistics of theta_c", "recompute: at each point", "interpolate"])
def test_the_report_says_what_batchnorm_a_plane_and_its_curvature_had(tmp_path, policy):
    plane, trajectory = datasets()
    plane = plane.assign(path_residual=("iteration", np.zeros(plane.sizes["iteration"])))
    plane.attrs |= {"batchnorm": policy, "center": "last", "samples": {"train": 9}, "nonfinite_points": {"train": 0}}
    curvature = xr.Dataset({name: (("y", "x"), np.ones((2, 2))) for name in ("largest", "smallest")})
    curvature.attrs |= {"batchnorm": f"{policy}; held", "operator": "hessian", "parameters": 5, "samples": 9}
    curvature.attrs |= {"nonfinite_points": 0, "unconverged_points": 0}
    settings = {"model": {"name": "lenet"}, "planes": {"p": {"x": "pca/1", "y": "pca/2"}}}
    run = Run("r", load({"results": str(tmp_path), "runs": {"r": settings}}))
    for file in (*targets.videos(run).values(), *registry.figure_files(run)["plane p"]):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"a picture")
    kinds = {"trajectory": {"": trajectory}, "landscape": {"p": plane}, "curvature": {"p": curvature}}
    materials = report.Materials(run, kinds)
    facts = dict(report._plane("p", materials)["facts"])
    assert facts["BatchNorm"] == policy
    assert facts["BatchNorm of the matrix"] == f"{policy}; held"


def test_overlaps_show_cosines_and_angles_to_gaussian_vectors():
    gaussian = np.cos(np.radians([[89.0, 90.0, 91.0], [90.0, 90.0, 90.5]]))
    arrays = {"cosine": (("direction", "other_direction"), np.array([[1, -0.25], [-0.25, 1]])),
              "gaussian_cosine": (("direction", "gaussian"), gaussian)}  # fmt: skip
    coords = {"direction": ["up", "down"], "gaussian": [1, 2, 3]}
    overlaps = xr.Dataset(arrays, coords, {"parameters": 10_000})
    matrix, angles, _ = overlap_figure(overlaps, CHOICES, "a title").axes
    assert texts(matrix) == ["1.00", "-0.25", "-0.25", "1.00"]
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["up", "down"]
    low, high = angles.get_xlim()
    assert low < 89 < 91 < high
    assert [label.get_text() for label in angles.get_yticklabels()] == ["up", "down"]
    medians = [one.get_xdata()[0] for one in angles.lines if one.get_color() == style.PATH_COLOR]
    assert medians == pytest.approx([90.0, 90.0])
    (dots,) = (one for one in angles.lines if one.get_marker() == "|")
    assert dots.get_xdata() == pytest.approx(np.degrees(np.arccos(gaussian)).ravel())
    assert overlap_figure(overlaps.isel(gaussian=[]), CHOICES, "").axes[0].images
    plt.close("all")
