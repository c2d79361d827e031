"""Results of notebooks show themselves: what is drawn, written and read again is what was computed."""

import io

import imageio_ffmpeg
import lossatlas
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas.errors import LossAtlasError
from lossatlas.results import Plane, Result, Spectrum
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

STEPS = 6


@pytest.fixture(scope="module")
def problem():
    """A linear model, its samples, and a path of state dicts that leads to it."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(30, 4, dtype=torch.float64)
    end = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = ({name: torch.randn_like(value) for name, value in end.items()} for _ in range(2))
    times = np.linspace(0, 1, STEPS, endpoint=False)
    path = [{name: value + (1 - t) * (one[name] + 2 * t * two[name]) for name, value in end.items()} for t in times]
    return model, (x, torch.randint(0, 3, (30,))), path


@pytest.fixture(scope="module")
def plane(problem):
    model, data, path = problem
    return lossatlas.plane(model, "cross-entropy", data, path=path, points=(9, 7), range=[(-8, 8), (-8, 8)])


@pytest.fixture(scope="module")
def spectrum(problem):
    model, data, _ = problem
    return lossatlas.hessian(model, "cross-entropy", data, strategy="rebuild").spectrum(probes=3, steps=5)


def decoded(png: bytes) -> np.ndarray:
    return plt.imread(io.BytesIO(png), format="png")


def test_a_plane_shows_its_losses_in_their_colours(plane):
    figure = plane.plot(scale="linear", levels=40)
    axes = figure.axes[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture, loss = np.asarray(canvas.buffer_rgba()) / 255, plane["loss"].sel(split="train")
    colors = plt.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]
    found = []
    for x, y in ((-6, -5), (6, -5), (-6, 5), (6, 5), (-2, 5)):
        column, row = axes.transData.transform((x, y)).round().astype(int)
        nearest = np.abs(colors - picture[len(picture) - row, column, :3]).sum(axis=1).argmin()
        found.append((float(loss.interp(x=x, y=y)), nearest / 255))
    shares = [(value - float(loss.min())) / float(loss.max() - loss.min()) for value, _ in found]
    assert [color for _, color in found] == pytest.approx(shares, abs=0.06)
    assert np.ptp(shares) > 0.2


def test_what_jupyter_shows_is_the_plot(plane, spectrum):
    plt.close("all")  # of tests before
    for result, size in ((plane, (540, 720)), (spectrum, (460, 720))):
        picture = decoded(result._repr_png_())
        assert picture.shape[:2] == size
        assert np.ptp(picture[..., :3]) > 0.9
        figure = result.plot()
        assert not plt.get_fignums(), "Jupyter would show what is open once more"
        figure.savefig(again := io.BytesIO(), format="png", dpi=100)
        assert np.abs(decoded(again.getvalue()) - picture).mean() < 0.02, "but for the style"


def test_plots_of_every_kind(plane, problem):
    model, data, _ = problem
    assert plane.kinds == ["contour", "surface", "loss", "metrics"]
    figure = plane.plot_3d(title="mine", elevation=50, scale="linear")
    (axes,) = figure.axes
    assert (axes.name, axes.elev, axes.get_title()) == ("3d", 50, "mine")
    assert axes.get_zlim() == pytest.approx([float(plane["loss"].min()), float(plane["loss"].max())], rel=0.05)
    lines = {line.get_label(): line.get_ydata() for line in plane.plot("loss").axes[0].get_lines()}
    assert np.array_equal(lines["train subset"], plane["path_true_loss"].sel(split="train"))
    curve = lossatlas.curve(model, "cross-entropy", data, points=5)
    drawn = [line.get_ydata() for line in curve.plot().axes[0].get_lines()]
    assert any(np.array_equal(y, curve["loss"].values[0, 0]) for y in drawn if len(y) == 5)
    assert repr(curve) == "<curves: curve 1, split 1, alpha 5; plot: curve>"
    flat = lossatlas.plane(model, "mse", (data[0], torch.zeros(30, 3)), points=(3, 3))
    assert flat.kinds == ["contour", "surface"], "without a path, classes or metrics of one's own"


@pytest.mark.parametrize("name", ["plane", "spectrum"])
def test_what_is_saved_is_opened_equal(request, tmp_path, name):
    result, path = request.getfixturevalue(name), tmp_path / "kept.zarr"
    result.save(path)
    result.save(path)
    again = lossatlas.open(path)
    assert type(again) is type(result)
    xr.testing.assert_identical(again.data, result.data)
    assert [one.name for one in tmp_path.iterdir()] == ["kept.zarr"]
    assert np.array_equal(decoded(again._repr_png_()), decoded(result._repr_png_()))


def test_a_spectrum_that_was_saved_estimates_the_same(spectrum, tmp_path):
    spectrum.save(tmp_path / "kept.zarr")
    again = lossatlas.open(tmp_path / "kept.zarr")
    assert isinstance(again, Spectrum)
    assert again.trace() == spectrum.trace()
    assert again.accuracy() == spectrum.accuracy()


def test_a_video_has_a_frame_for_each_point_of_the_path(plane, tmp_path):
    shown = plane.video(tmp_path / "path.mp4", fps=10, hold_seconds=0.3, title="mine")
    count, seconds = imageio_ffmpeg.count_frames_and_secs(tmp_path / "path.mp4")
    assert (count, seconds) == (STEPS + 1 + 3, pytest.approx(1.0))
    reader = imageio_ffmpeg.read_frames(tmp_path / "path.mp4")
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3).astype(int) for frame in reader]
    red = [int(((f[..., 0] > 150) & (f[..., 1] < 90) & (f[..., 2] < 90)).sum()) for f in frames]
    assert red[0] < red[3] < red[6], "the path grows"
    assert shown._repr_html_().startswith("<video")


def test_data_are_a_labelled_dataset_without_the_directions(plane, problem):
    model, data, _ = problem
    assert isinstance(plane, Plane)
    assert isinstance(plane.data, xr.Dataset)
    assert plane["loss"].identical(plane.data["loss"])
    assert "parameter" not in plane.sizes
    held = lossatlas.plane(model, "cross-entropy", data, points=(2, 2), vectors=True)
    assert held["direction"].shape == (2, 15)
    curve = lossatlas.curve(model, "cross-entropy", data, points=3, vectors=True)
    assert isinstance(curve, Result)
    assert curve["direction"].shape == (1, 15)


def test_a_recorders_file_is_a_path(problem, tmp_path):
    model, data, path = problem
    moved = nn.Linear(4, 3).double()
    moved.load_state_dict(path[0])
    file = tmp_path / "trajectory.zarr"
    with lossatlas.record(moved, file) as tape:
        for number, state in enumerate([*path[1:], model.state_dict()]):
            moved.load_state_dict(state)
            tape.step(loss=float(number))
    plane, given = (lossatlas.plane(model, "cross-entropy", data, "pca", path=p, points=(3, 3)) for p in (file, path))
    assert plane["batch_loss"].values[:-1].tolist() == [*range(STEPS)]
    for name in ("loss", "path_true_loss", "path_x"):
        assert plane[name].values == pytest.approx(given[name].values, rel=1e-12)
    with pytest.raises(LossAtlasError, match="was recorded from a network with other parameters"):
        lossatlas.track(nn.Linear(4, 3, bias=False).double(), "cross-entropy", data, file)


def test_eigenvectors_are_tracked_along_a_path(problem):
    model, data, path = problem
    tracking = lossatlas.track(model, "cross-entropy", data, path[-2:], largest=2, tolerance=1e-8, strategy="rebuild")
    for state, values in zip([*path[-2:], model.state_dict()], tracking["eigenvalue"].values, strict=True):
        moved = nn.Linear(4, 3).double()
        moved.load_state_dict(state)
        dense = dense_hessian(moved, *data)
        assert values == pytest.approx(np.linalg.eigvalsh(dense)[::-1][:2], rel=1e-6)
    assert tracking.plot().axes[0].get_ylabel() == "Hessian eigenvalue λ"


def dense_hessian(model, x, y):
    """Return the Hessian of a linear classifier in closed form: the mean of kron(diag(p) - p p', z z')."""
    p = torch.softmax(model(x), 1).detach().numpy()
    z = np.concatenate([x.numpy(), np.ones((len(x), 1))], axis=1)
    blocks = np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)
    return np.einsum("nij,nk,nl->ikjl", blocks, z, z).reshape(15, 15) / len(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, _: p.plot("density"), "plot: kind: 'density' cannot be drawn of landscape; figures: contour, surf"),
        (lambda p, _: p.plot(level=3), "unknown key 'level'; did you mean 'levels'?"),
        (lambda p, _: p.video("path.gif"), "video: path.gif: the name must end in .mp4"),
        (lambda p, _: p.video("path.mp4", fps=0), "video: fps: 0 is less than the minimum of 1"),
        (lambda p, _: p.save("plane.nc"), "save: plane.nc: the name must end in .zarr"),
        (lambda p, folder: p.save(folder / "other.zarr"), "there is something else already"),
        (lambda p, folder: lossatlas.open(folder / "none.zarr"), "none.zarr: no such store"),
        (lambda p, folder: lossatlas.open(folder / "other.zarr"), "not a readable Zarr store"),
    ],
)
def test_mistakes_say_one_line(plane, tmp_path, call, message):
    (tmp_path / "other.zarr").mkdir()
    with pytest.raises(LossAtlasError) as error:
        call(plane, tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plane_without_a_path_has_no_video(problem):
    model, data, _ = problem
    plane = lossatlas.plane(model, "cross-entropy", data, points=(2, 2))
    with pytest.raises(LossAtlasError, match=r"video: the plane has no path; give one: lossatlas.plane"):
        plane.video("path.mp4")
