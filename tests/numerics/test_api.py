"""What notebooks use: `hessian`, `plane` and `curve` of `lossatlas`, against dense algebra and closed forms."""

import copy
import subprocess
import sys

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.errors import LossAtlasError
from lossatlas.render.figures.contour import contour_figure
from lossatlas.render.figures.line_scans import curve_figure
from lossatlas.render.style import CHOICES, save
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import environment

SAMPLES, INPUTS = 23, 9


@pytest.fixture
def regression():
    """A linear model, its samples, and the exact Hessian of the mean squared error, 2 X'X / N."""
    torch.manual_seed(1)
    x, y = torch.randn(SAMPLES, INPUTS, dtype=torch.float64), torch.randn(SAMPLES, 1, dtype=torch.float64)
    return nn.Linear(INPUTS, 1, bias=False).double(), (x, y), (2 / SAMPLES * x.T @ x).numpy()


def saddle_model():
    """A small network with eigenvalues of both signs, its samples and its dense Hessian by autograd."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(31, 4, dtype=torch.float64), torch.randint(0, 3, (31,))
    shapes = [p.shape for p in model.parameters()]
    names = [n for n, _ in model.named_parameters()]

    def loss(theta):
        parts = theta.split([s.numel() for s in shapes])
        parameters = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, parameters, data[0]), data[1])

    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return model, data, torch.autograd.functional.hessian(loss, theta).numpy()


def test_products_equal_the_closed_form_on_every_kind_of_data(regression):
    model, (x, y), exact = regression
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    for data in ((x, y), (x.numpy(), y.numpy()), [x, y], TensorDataset(x, y), loader):
        h = lossatlas.hessian(model, functional.mse_loss, data, batch_size=5)
        assert h.shape == exact.shape
        assert np.abs(h.matmat(np.eye(INPUTS)) - exact).max() < 1e-12
    assert np.abs(lossatlas.hessian(model, "mse", (x, y)).matvec(exact[0]) - exact @ exact[0]).max() < 1e-12


def test_scipy_sees_a_linear_operator(regression):
    model, data, exact = regression
    operator = lossatlas.hessian(model, "mse", data).linear_operator()
    assert np.abs(operator @ exact - exact @ exact).max() < 1e-12
    assert np.allclose(eigsh(operator, k=2)[0], np.linalg.eigvalsh(exact)[-2:], rtol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_eigenpairs_at_each_end(k):
    model, data, dense = saddle_model()
    exact = np.linalg.eigvalsh(dense)[::-1]
    assert exact[0] > 0 > exact[-1]
    wanted = {
        "LA": exact[:k],
        "SA": exact[-k:],
        "BE": np.concatenate([exact[: -(-k // 2)], exact[len(exact) - k // 2 :]]),
        "LM": np.sort(exact[np.argsort(-np.abs(exact))[:k]])[::-1],
    }
    h = lossatlas.hessian(model, "cross-entropy", data, batch_size=10)
    for which, values in wanted.items():
        pairs = h.eigenpairs(k, which, tolerance=1e-9)
        assert pairs.converged.all()
        assert pairs.values == pytest.approx(values, abs=1e-9), which
        for value, vector in zip(pairs.values, pairs.vectors, strict=True):
            assert np.linalg.norm(dense @ vector - value * vector) < 1e-8 * exact[0]


def test_spectrum_integrates_polynomials_exactly_and_the_trace_within_its_bars():
    model, data, dense = saddle_model()
    spectrum = lossatlas.hessian(model, "cross-entropy", data).spectrum(probes=12, steps=8, seed=3)
    assert spectrum.nodes.shape == (12, 8)
    trace = spectrum.trace()
    assert trace.low < np.trace(dense) < trace.high
    assert abs(trace.value - np.trace(dense)) < 4 * trace.standard_error
    many = lossatlas.hessian(model, "cross-entropy", data).spectrum(probes=400, steps=3).moment(2)
    assert abs(many.value - np.trace(dense @ dense) / len(dense)) < 4 * many.standard_error


def test_nothing_of_the_users_is_touched():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    functional.cross_entropy(model(x), y).backward()
    torch.backends.cudnn.allow_tf32 = True
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    lossatlas.hessian(model, functional.cross_entropy, (x, y)).eigenpairs(1)
    lossatlas.plane(model, functional.cross_entropy, (x, y), points=(3, 2))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32


def test_a_plane_of_a_quadratic_loss_equals_the_closed_form(regression):
    model, (x, y), _ = regression
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, INPUTS))
    plane = lossatlas.plane(
        model, "mse", (x, y), [u, {"weight": torch.tensor(v)[None]}], points=(5, 4), range=[(-2, 3), (-1, 1)]
    )
    assert plane["loss"].dims == ("split", "y", "x")
    theta = model.weight.detach().numpy()[0]
    for b in plane["y"].values:
        for a in plane["x"].values:
            exact = np.mean((x.numpy() @ (theta + a * u + b * v) - y.numpy()[:, 0]) ** 2)
            assert float(plane["loss"].sel(split="train", x=a, y=b)) == pytest.approx(exact, rel=1e-12)
    assert plane["x"].values.tolist() == [-2, -0.75, 0.5, 1.75, 3]


def test_running_statistics_of_each_point():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    u, v = np.random.default_rng(0).standard_normal((2, sum(p.numel() for p in model.parameters())))
    plane = lossatlas.plane(
        model, "cross-entropy", (x, y), [u, v], points=(3, 3), range=[(-1, 1)] * 2, batchnorm="recompute"
    )
    moved = copy.deepcopy(model)
    theta = nn.utils.parameters_to_vector(moved.parameters()) + torch.tensor(u, dtype=torch.float32)
    nn.utils.vector_to_parameters(theta, moved.parameters())
    moved[1].momentum = 1.0
    moved.train()(x)
    exact = functional.cross_entropy(moved.eval()(x), y)
    assert float(plane["loss"].sel(split="train", x=1, y=0)) == pytest.approx(float(exact), rel=1e-5)
    with pytest.raises(LossAtlasError, match=r"plane.batchnorm: 'interpolate' needs differences"):
        lossatlas.plane(model, "cross-entropy", (x, y), [u, v], points=(3, 3), batchnorm="interpolate")


def test_own_metrics_lie_beside_the_loss(regression):
    model, (x, y), _ = regression
    other = copy.deepcopy(model)
    other.weight.data += 1.0
    metrics = {"largest": lambda outputs, targets: (outputs - targets).abs().amax(1)}
    plane = lossatlas.plane(model, "mse", (x, y), test=(x, y), metrics=metrics, points=(3, 3))
    at_center = (x @ model.weight.detach().T - y).abs().mean()
    assert plane["largest"].dims == ("split", "y", "x")
    assert float(plane["largest"].sel(split="test", x=0, y=0)) == pytest.approx(float(at_center), rel=1e-12)
    curve = lossatlas.curve(model, "mse", (x, y), to=other, metrics=metrics, points=5)
    moved = (x @ other.weight.detach().T - y).abs().mean()
    assert float(curve["largest"].sel(split="train", alpha=1)[0]) == pytest.approx(float(moved), rel=1e-12)
    for mistaken in (metrics["largest"], {"largest": "my_code:largest"}):
        with pytest.raises(LossAtlasError, match="is no dict of functions by name"):
            lossatlas.plane(model, "mse", (x, y), metrics=mistaken)
    with pytest.raises(LossAtlasError, match=r"metrics: 'path_x' is an array of the stores already"):
        lossatlas.plane(model, "mse", (x, y), metrics={"path_x": metrics["largest"]})


def test_an_adaptive_plane_keeps_its_tolerance(regression):
    model, data, *_ = regression
    arguments = (model, "mse", data, "random")
    full = lossatlas.plane(*arguments, points=(21, 21))["loss"]
    some = lossatlas.plane(*arguments, points=(21, 21), tolerance=0.001)
    assert some["evaluated"].sum() < 21 * 21 / 2
    assert some.attrs["grid_tolerance"] == 0.001
    assert float(np.abs(some["loss"] - full).max() / (full.max() - full.min())) <= 0.001


def test_a_path_is_projected_and_its_principal_plane_holds_a_flat_path(regression):
    model, (x, y), _ = regression
    rng = np.random.default_rng(0)
    u, v = (torch.tensor(row)[None] for row in rng.standard_normal((2, INPUTS)))
    end = model.weight.detach()
    path = [{"weight": end + np.cos(t) * 3 * u + t * v} for t in np.linspace(3, 0.2, 12)]
    plane = lossatlas.plane(model, "mse", (x, y), "pca", path=path, test=(x[:5], y[:5]), points=(6, 6))
    assert plane.sizes["iteration"] == 13
    assert plane["path_residual"].values.max() < 1e-6 * np.abs(plane["path_x"]).max()
    assert sum(plane.attrs["variance_share"]) == pytest.approx(1)
    assert np.allclose(plane["path_true_loss"], plane["path_projected_loss"], rtol=1e-9)
    first = np.mean((x.numpy() @ path[0]["weight"].numpy()[0] - y.numpy()[:, 0]) ** 2)
    assert float(plane["path_true_loss"].sel(split="train")[0]) == pytest.approx(first)
    assert plane["x"].values[0] < plane["path_x"].values.min() < plane["path_x"].values.max() < plane["x"].values[-1]


def test_a_plane_through_another_model_passes_through_it(regression):
    model, (x, y), _ = regression
    other = nn.Linear(INPUTS, 1, bias=False).double()
    plane = lossatlas.plane(model, "mse", (x, y), [other, np.ones(INPUTS)], range=[(0, 1), (0, 1)], points=(2, 2))
    exact = float(functional.mse_loss(other(x), y).detach())
    assert float(plane["loss"].sel(split="train", x=1, y=0)) == pytest.approx(exact)


def test_eigenvector_and_random_planes():
    model, data, dense = saddle_model()
    plane = lossatlas.plane(model, "cross-entropy", data, "eigen", points=(3, 3), range=[(-1e-3, 1e-3)] * 2)
    loss = plane["loss"].sel(split="train").values
    curvatures = (loss[1, 2] - 2 * loss[1, 1] + loss[1, 0]) / 1e-6, (loss[2, 1] - 2 * loss[1, 1] + loss[0, 1]) / 1e-6
    assert curvatures == pytest.approx(np.linalg.eigvalsh(dense)[::-1][:2], rel=1e-3)
    random = lossatlas.plane(model, "cross-entropy", data, points=(3, 3))
    weights = np.sqrt(
        sum(float(p.detach().square().sum()) for n, p in model.named_parameters() if n.endswith("weight"))
    )
    assert random.attrs["direction_norm"] == pytest.approx([weights, weights], rel=1e-12)


def test_planes_and_curves_along_eigenvectors_nearest_to_a_value():
    model, data, dense = saddle_model()
    exact = np.linalg.eigvalsh(dense)
    near = float(exact[len(exact) // 2])
    narrow = {"near": near, "points": 3, "vectors": True}
    plane = lossatlas.plane(model, "cross-entropy", data, "eigen", **narrow | {"points": (3, 3)}, range=[(-1, 1)] * 2)
    curve = lossatlas.curve(model, "cross-entropy", data, "eigen", **narrow, range=(-1, 1))
    wanted = exact[np.argsort(np.abs(exact - near))]
    assert np.abs(plane["eigenvalue"].values - near) == pytest.approx(np.abs(wanted[:2] - near), abs=2e-3 * exact[-1])
    assert float(curve["eigenvalue"][0]) == pytest.approx(near, abs=2e-3 * exact[-1])
    for value, vector in zip(plane["eigenvalue"].values, plane["direction"].values, strict=True):
        assert np.linalg.norm(dense @ vector - value * vector) < 1e-3 * exact[-1]
    with pytest.raises(LossAtlasError, match=r"plane: near: 0\.0 belongs to directions 'eigen'"):
        lossatlas.plane(model, "cross-entropy", data, near=0.0)
    with pytest.raises(LossAtlasError, match="curve: near: inf is no finite number"):
        lossatlas.curve(model, "cross-entropy", data, "eigen", near=float("inf"))


def test_orthogonal_axes_keep_the_third_model_at_one(regression):
    model, (x, y), _ = regression
    one, two = (nn.Linear(INPUTS, 1, bias=False).double() for _ in range(2))
    given = {"range": [(-1, 1), (0, 1)], "points": (3, 2), "orthogonalize": True, "vectors": True}
    plane = lossatlas.plane(model, "mse", (x, y), [one, two], **given)
    u, v = plane["direction"].values
    assert abs(u @ v) < 1e-12
    theta, end = (m.weight.detach().numpy()[0] for m in (model, two))
    assert abs((end - theta - v) @ v) < 1e-12, "what is left lies along x"
    assert plane.attrs["angle"] == pytest.approx(90)
    exact = np.mean((x.numpy() @ (theta + v) - y.numpy()[:, 0]) ** 2)
    assert float(plane["loss"].sel(split="train", x=0, y=1)) == pytest.approx(exact)


def test_a_curve_along_the_gradient_of_a_quadratic_is_its_closed_form(regression):
    model, (x, y), h = regression
    curve = lossatlas.curve(
        model, "mse", (x, y), "gradient", range=(-0.2, 1), points=13, test=(x[:6], y[:6]), vectors=True
    )
    theta = model.weight.detach().numpy()[0]
    gradient = 2 / SAMPLES * x.numpy().T @ (x.numpy() @ theta - y.numpy()[:, 0])
    assert np.allclose(curve["direction"].values[0], -gradient, rtol=1e-12)
    at = curve["alpha"].values
    for split, count in (("train", SAMPLES), ("test", 6)):
        errors = x.numpy()[:count] @ (theta[:, None] - at * gradient[:, None]) - y.numpy()[:count]
        assert np.allclose(curve["loss"].sel(split=split).values[0], (errors**2).mean(axis=0), rtol=1e-12)
    exact = (gradient @ gradient) / (gradient @ h @ gradient)
    assert float(curve["minimum_position"].sel(split="train")[0]) == pytest.approx(exact, abs=0.05)


def test_a_curve_to_another_model_starts_here_and_ends_there(tmp_path):
    model, data, _ = saddle_model()
    other = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for to in (other, other.state_dict()):
        curve = lossatlas.curve(model, "cross-entropy", data, to=to, points=9, range=(-1, 2))
        at = {alpha: float(curve["loss"].sel(alpha=alpha)[0, 0]) for alpha in (0, 1)}
        for alpha, module in ((0, model), (1, other)):
            assert at[alpha] == pytest.approx(functional.cross_entropy(module(data[0]), data[1]).item(), rel=1e-12)
    assert curve.attrs["random_guess"] == pytest.approx(np.log(3))
    assert curve.sizes == {"curve": 1, "split": 1, "alpha": 11}
    save(curve_figure(curve.data, CHOICES, "mine"), [tmp_path / "curve.png"])
    assert (tmp_path / "curve.png").stat().st_size > 5000


def statistics_of_data(model, x):
    """Return a copy whose running statistics are those of ``x``: mean and unbiased variance, as training sees them."""
    moved = copy.deepcopy(model)
    for module in moved.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
    moved.train()(x)
    return moved.eval()


def test_running_statistics_between_two_models():
    model, other = (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)) for _ in range(2))
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    model, other = statistics_of_data(model, x), statistics_of_data(other, 3 * x)
    foreign = copy.deepcopy(other)
    foreign[1].running_mean, foreign[1].running_var = model[1].running_mean, model[1].running_var
    expected = {"interpolate": other, None: other, "frozen": foreign, "recompute": statistics_of_data(other, x)}
    for batchnorm, end in expected.items():
        curve = lossatlas.curve(model, "cross-entropy", (x, y), to=other, points=5, batchnorm=batchnorm)
        exact = functional.cross_entropy(end(x), y)
        assert float(curve["loss"].sel(alpha=1)[0, 0]) == pytest.approx(float(exact), rel=1e-5)
    along = lossatlas.curve(
        model, "cross-entropy", (x, y), [np.ones(63)], points=3, batchnorm="recompute", strategy="eager"
    )
    moved = copy.deepcopy(model)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()) + 1, moved.parameters())
    exact = functional.cross_entropy(statistics_of_data(moved, x)(x), y)
    assert float(along["loss"].sel(alpha=1)[0, 0]) == pytest.approx(float(exact), rel=1e-5)


def test_curves_are_evaluated_by_the_strategy_and_precision_asked_for():
    model, (x, y), _ = saddle_model()
    model, data = model.float(), (x.float(), y)
    plain = lossatlas.curve(model, "cross-entropy", data, points=5, strategy="eager")
    cached = lossatlas.curve(model, "cross-entropy", data, points=5, strategy="first-layer")
    coarse = lossatlas.curve(model, "cross-entropy", data, points=5, strategy="folded", precision="bfloat16")
    assert [c.attrs["strategy"] for c in (plain, cached, coarse)] == ["eager", "first-layer", "folded"]
    assert np.allclose(cached["loss"], plain["loss"], rtol=1e-6)
    assert 0 < np.abs(coarse["loss"] / plain["loss"] - 1).max() < 0.05


def test_curves_along_eigenvectors_and_random_directions():
    model, data, dense = saddle_model()
    curve = lossatlas.curve(model, "cross-entropy", data, "eigen", count=2, range=(-1e-3, 1e-3), points=3)
    loss = curve["loss"].sel(split="train").values
    assert (loss[:, 0] - 2 * loss[:, 1] + loss[:, 2]) / 1e-6 == pytest.approx(
        np.linalg.eigvalsh(dense)[::-1][:2], rel=1e-3
    )
    assert curve["converged"].all()
    seeds = lossatlas.curve(model, "cross-entropy", data, count=3, points=5, seed=4, normalize="model", ignore=[])
    assert seeds["curve"].values.tolist() == ["random 1", "random 2", "random 3"]
    assert np.ptp(seeds["loss"].values, axis=0).min() == 0, "they meet in the model"
    norm = np.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
    assert seeds["direction_norm"].values == pytest.approx([norm] * 3)


def test_gradient_modes_of_the_caller_do_not_matter():
    model, data, dense = saddle_model()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            h = lossatlas.hessian(model, nn.CrossEntropyLoss(), data)
            assert np.abs(h @ dense[:, :3] - dense @ dense[:, :3]).max() < 1e-10


def test_mean_squares_of_pytorch_take_the_fast_path_and_agree(regression):
    model, data, exact = regression
    for loss in (nn.MSELoss(), functional.mse_loss):
        h = lossatlas.hessian(model, loss, data, strategy="split")
        assert h._operator.strategy == "split"
        assert np.abs(h.matmat(np.eye(INPUTS)) - exact).max() < 1e-12
    with pytest.raises(LossAtlasError, match="must be the mean over samples"):
        lossatlas.hessian(model, nn.MSELoss(), (data[0], data[1][:, 0]))  # it broadcasts to (N, N)


def test_frozen_parameters_of_a_path_must_be_the_models():
    model, data, _ = saddle_model()
    model[0].requires_grad_(False)
    other = {name: value.clone() for name, value in model.state_dict().items()}
    other["0.weight"] += 1
    with pytest.raises(LossAtlasError, match=r"path\[0\]: it differs from the model in parameters that do not"):
        lossatlas.plane(model, "cross-entropy", data, path=[other])


def test_a_plane_says_what_it_was_drawn_along_and_can_be_saved_and_drawn(tmp_path):
    model, data, dense = saddle_model()
    plane = lossatlas.plane(model, "cross-entropy", data, "eigen", points=(4, 3), vectors=True)
    pairs = zip(plane["eigenvalue"].values, plane["direction"].values, strict=True)
    for value, vector in pairs:
        assert np.linalg.norm(dense @ vector - value * vector) < 2e-3 * np.linalg.norm(dense, 2)
    assert plane["converged"].all()
    assert plane.attrs["samples_train"] == 31
    save(contour_figure(plane.data, title="mine"), [tmp_path / "contour.png"])
    assert (tmp_path / "contour.png").stat().st_size > 5000
    assert not any(isinstance(value, dict) for value in plane.attrs.values()), "NetCDF has no dicts"


def noisy_loss(outputs, targets):
    return functional.cross_entropy(functional.dropout(outputs, 0.5), targets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: lossatlas.hessian(m, "mae", d), "loss: 'mae' is neither a function nor one of"),
        (lambda m, d: lossatlas.hessian("lenet", "mse", d), "expected a torch.nn.Module, got str"),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", 3), "must be a pair"),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", (d[0], d[1][:4])), "31 inputs and 4 targets"),
        (lambda m, d: lossatlas.hessian(m.requires_grad_(False), "mse", d), "no parameter requires a gradient"),
        (lambda m, d: lossatlas.hessian(m, noisy_loss, d), "draws random numbers"),
        (
            lambda m, d: lossatlas.hessian(m, "cross-entropy", d).eigenpairs(0),
            "eigenpairs: 0 asked for; must lie between 1 and",
        ),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", d).eigenpairs(1, "SM"), "which: 'SM' is not one of"),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", d).spectrum(2, 44), "number of parameters, 43"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, "pca"), "needs a path of at least 3 earlier checkpoints"),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", d).eigenpairs(1.5), "eigenpairs: 1.5 asked for"),
        (lambda m, d: lossatlas.hessian(m, "cross-entropy", d, batch_size=0), "hessian: batch_size: 0 is less than"),
        (lambda m, d: lossatlas.hessian(m, nn.CrossEntropyLoss, d), "give an instance, CrossEntropyLoss()"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, normalize="foo"), "plane: normalize: 'foo' is not one of"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, ignore=["foo"]), "plane: ignore.0: 'foo' is not one of"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, points=(3, 3, 3)), "plane: points: [3, 3, 3]"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, [np.full(43, np.nan)] * 2), "it holds NaN or inf"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, "rndm"), "'rndm' is not one of random, pca, eigen"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, [np.ones(43)] * 2), "linearly dependent"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, [{"0.wait": d[0]}] * 2), "no trained parameter '0.wait'"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, [np.ones(43)]), "1 were given; a plane needs two"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, to=m), "curve: 'from' and 'to' are one point"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, range=(1, 2)), "curve: range: [1, 2] must hold 0"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, points=1), "curve: points: 1 is less than the minimum"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, []), "directions: none were given"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, "random", to=m), "belong to curves without 'to'"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, to=m, count=3), "belong to curves without 'to'"),
        (
            lambda m, d: lossatlas.curve(m, "cross-entropy", d, batchnorm="interpolate"),
            "'interpolate' needs a checkpoint",
        ),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, "gradient", count=3), "curve: count: 3 is for random"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, to=nn.Linear(2, 3)), "to: not a checkpoint of this model"),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, range=1), "curve: range: 1 is not of type array"),
        (
            lambda m, d: lossatlas.curve(m, "cross-entropy", d, second_order=0),
            "curve: second_order.at: 0 is not of type array",
        ),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, 3), "directions: 3 is not one of random, pca, eigen"),
        (
            lambda m, d: lossatlas.curve(m, "cross-entropy", d, batchnorm="recompute", strategy="compiled"),
            "curve: strategy: 'compiled' needs batchnorm: frozen",
        ),
        (
            lambda m, d: lossatlas.plane(m, "cross-entropy", d, batchnorm="recompute", precision="bfloat16"),
            "plane: precision: 'bfloat16' needs batchnorm: frozen",
        ),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, points=9), "plane: points: 9 is not of type array"),
        (
            lambda m, d: lossatlas.plane(m, "cross-entropy", d, range=(-1, [0, 1])),
            "plane: range.x: -1 is not of type array",
        ),
        (lambda m, d: lossatlas.curve(m, "cross-entropy", d, strategy="fast"), "curve: strategy: 'fast' is not one of"),
        (lambda m, d: lossatlas.plane(m, "cross-entropy", d, path=[{}]), "path[0]: not a checkpoint of this model"),
    ],
)
def test_mistakes_say_one_line(call, message):
    model, data, _ = saddle_model()
    with pytest.raises(LossAtlasError) as error:
        call(model, data)
    lines = str(error.value).splitlines()
    assert message in lines[0]
    assert len({*lines}) == len(lines) and len({line.split(":")[0] for line in lines}) == 1, "a line for each mistake"


def test_importing_the_package_loads_no_framework():
    code = """
import sys, lossatlas
assert "torch" not in sys.modules
assert callable(lossatlas.hessian)
assert not {"snakemake", "mpi4py", "tensorflow", "sklearn", "imageio_ffmpeg"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
