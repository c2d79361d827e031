"""Oracle 15: with the same weights and samples PyTorch and Keras give the same numbers. Both are in this process."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends import tensorflow as keras_backend
from lossatlas.backends import torch as torch_backend
from lossatlas.config import BY_FRAMEWORK
from lossatlas.data import Split, load_dataset
from lossatlas.geometry.normalization import drop, normalize
from lossatlas.krylov import Spectrum, lanczos, probe_vectors
from lossatlas.zoo.convert import to_keras, to_torch
from lossatlas.zoo.keras import builders

NETWORKS = {
    "lenet": {"name": "lenet", "kwargs": {}},
    "mlp": {"name": "mlp", "kwargs": {"hidden": [8, 6], "activation": "gelu"}},
    "resnet20": {"name": "resnet20", "kwargs": {"width": 4}},
}
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
CASES = [(name, dtype) for name in NETWORKS for dtype in TOLERANCE]


@cache
def pair(name, dtype):
    """Both networks with the weights of the torch one, and their problems; BatchNorm has seen images."""
    data = load_dataset({"name": "fashion-mnist-mini"}).train
    module = torch_backend.build_module(NETWORKS[name], 0)
    module.train()(torch.as_tensor(data.inputs[:64]))
    with torch.no_grad():
        # ResNet-20 begins with logits of 60: so little is left of p (1 - p) in float32 that Gauss-Newton products are
        # off by 4e-5 in PyTorch and by 3.3e-4 in Keras.
        [*module.modules()][-1].weight.mul_(0.05)
    ours = torch_backend.FlatNetwork(module, torch_backend.Device(torch.device("cpu"), getattr(torch, dtype)))
    device = keras_backend.set_up("cpu", dtype, 1)
    theirs = keras_backend.FlatNetwork(keras_backend.build_module(NETWORKS[name], 1), device)
    split, loss = Split(data.inputs[:10], data.targets[:10]), {"name": "cross-entropy"}
    problems = (
        torch_backend.TorchProblem(ours, torch_backend.build_loss(loss), split, 5),
        keras_backend.KerasProblem(theirs, keras_backend.build_loss(loss), split, 5),
    )
    theta, buffers = ours.parameters(), ours.buffers()
    at = (theta, buffers), (to_keras(theta, ours.layout), buffers)
    return SimpleNamespace(problems=problems, at=at, layouts=(ours.layout, theirs.layout), tolerance=TOLERANCE[dtype])


def assert_same(ours, theirs, tolerance):
    """The largest difference, relative to the largest number."""
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(ours).max()


def directions(both, count, seed=0):
    """Random vectors in both orders."""
    vectors = np.random.default_rng(seed).standard_normal((count, both.layouts[0].size))
    return vectors, np.stack([to_keras(vector, both.layouts[0]) for vector in vectors])


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_oracle_15_loss_accuracy_and_gradient(name, dtype):
    both = pair(name, dtype)
    ours, theirs = (problem.metrics(*at) for problem, at in zip(both.problems, both.at, strict=True))
    assert_same(ours, theirs, both.tolerance)
    ours, theirs = (problem.gradient(*at) for problem, at in zip(both.problems, both.at, strict=True))
    assert_same(ours, to_torch(theirs, both.layouts[1]), both.tolerance)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_oracle_15_products(name, dtype, operator):
    both, (ours, theirs) = pair(name, dtype), directions(pair(name, dtype), 2)
    problems, tolerance = both.problems, both.tolerance
    expected = problems[0].linearize(*both.at[0], operator=operator, strategy="rebuild").matmat(ours)
    for strategy in ("nested", "forward") if dtype == "float64" else ("nested",):
        found = problems[1].linearize(*both.at[1], operator=operator, strategy=strategy).matmat(theirs)
        assert_same(expected, np.stack([to_torch(row, both.layouts[1]) for row in found]), tolerance)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_oracle_15_lanczos_moments_and_density(name, dtype):
    both = pair(name, dtype)
    probe = probe_vectors(both.layouts[0].size, range(1), 0)
    starts = probe, np.stack([to_keras(probe[0], both.layouts[0])])
    strategies = "rebuild", "nested"
    runs, spectra = [], []
    for problem, at, start, strategy in zip(both.problems, both.at, starts, strategies, strict=True):
        found = lanczos(problem.linearize(*at, strategy=strategy), start, 10)
        runs.append(found[0])
        spectra.append(Spectrum.of(found, both.layouts[0].size))
    assert_same(runs[0].alpha, runs[1].alpha, both.tolerance)
    assert_same(runs[0].beta[:-1], runs[1].beta[:-1], both.tolerance)
    largest = np.abs(spectra[0].nodes).max()
    for power in range(1, 11):
        moments = [(spectrum.weights * (spectrum.nodes / largest) ** power).sum() for spectrum in spectra]
        assert abs(moments[0] - moments[1]) <= both.tolerance
    grid = np.linspace(-1.2 * largest, 1.2 * largest, 101)
    densities = [spectrum.density(grid, 0.1 * largest).value for spectrum in spectra]
    assert_same(*densities, both.tolerance)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_oracle_15_filter_normalised_directions_and_plane(name, dtype):
    both, vectors = pair(name, dtype), directions(pair(name, dtype), 2, seed=1)
    used = []
    for rows, layout, (theta, _) in zip(vectors, both.layouts, both.at, strict=True):
        ignored = [drop(row, layout, ["bias", "norm"]) for row in rows]
        used.append(np.stack([normalize(row, theta, layout, "filter") for row in ignored]))
    mapped = np.stack([to_torch(row, both.layouts[1]) for row in used[1]])
    assert np.abs(used[0] - mapped).max() <= 1e-12 * np.abs(mapped).max()
    axis = np.linspace(-0.5, 0.5, 5)
    points = np.stack([np.tile(axis, 5), np.repeat(axis, 5)], axis=1)
    planes = []
    for problem, (theta, buffers), rows in zip(both.problems, both.at, used, strict=True):
        planes.append(problem.restrict(theta, rows, buffers).metrics(points))
    relative = np.abs(planes[0] - planes[1])[:, 0] / planes[0][:, 0]
    assert relative.max() <= both.tolerance
    assert np.array_equal(planes[0][:, 1], planes[1][:, 1])


def test_oracle_15_batch_statistics():
    data = load_dataset({"name": "fashion-mnist-mini"}).train
    both, split = pair("resnet20", "float64"), Split(data.inputs[:10], data.targets[:10])
    ours, theirs = both.problems
    problems = (
        torch_backend.TorchProblem(ours.network, ours.loss, split, 5, "batch"),
        keras_backend.KerasProblem(theirs.network, theirs.loss, split, 5, "batch"),
    )
    gradients = [problem.gradient(*at) for problem, at in zip(problems, both.at, strict=True)]
    assert_same(gradients[0], to_torch(gradients[1], both.layouts[1]), 1e-9)
    assert np.abs(gradients[0] - ours.gradient(*both.at[0])).max() > 1e-3 * np.abs(gradients[0]).max()
    vectors = directions(both, 1)
    expected = problems[0].linearize(*both.at[0], strategy="rebuild").matmat(vectors[0])[0]
    found = problems[1].linearize(*both.at[1]).matmat(vectors[1])[0]
    assert_same(expected, to_torch(found, both.layouts[1]), 1e-9)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet32", {"width": 2}),
        ("resnet56", {"width": 2}),
        ("resnet20-noshort", {"width": 3, "classes": 4}),
        ("vgg9", {"width": 2}),
        ("vgg9", {"width": 2, "batchnorm": False}),
        ("vgg11", {"width": 2}),
    ],
)
def test_oracle_15_outputs_of_other_twins(name, kwargs):
    images = load_dataset({"name": "fashion-mnist-mini"}).train.inputs[:40]
    module = torch_backend.build_module({"name": name, "kwargs": kwargs}, 0)
    module.train()(torch.as_tensor(images))
    ours = torch_backend.FlatNetwork(module, torch_backend.Device(torch.device("cpu"), torch.float64))
    device = keras_backend.set_up("cpu", "float64", 1)
    theirs = keras_backend.FlatNetwork(keras_backend.build_module({"name": name, "kwargs": kwargs}, 1), device)
    theta = to_keras(ours.parameters(), ours.layout)
    assert np.array_equal(to_torch(theta, theirs.layout), ours.parameters())
    assert [slot.kind for slot in ours.layout] == [slot.kind for slot in theirs.layout]
    theirs.load(theta=theta, buffers=ours.buffers())
    with torch.no_grad():
        expected = ours.module(torch.as_tensor(images[:3], dtype=torch.float64)).numpy()
    found = theirs.model(images[:3].transpose(0, 2, 3, 1).astype(np.float64), training=False).numpy()
    assert_same(expected, found, 1e-10)


def test_twins_are_those_of_the_config_and_begin_alike():
    from lossatlas.config import BY_FRAMEWORK

    assert set(BY_FRAMEWORK["tensorflow"]["model"]) == set(builders())
    keras_backend.set_up("cpu", "float32", 1)
    for name in ("lenet", "resnet20", "vgg9"):
        spec = {"name": name, "kwargs": {"width": 16} if name == "vgg9" else {}}
        ours = torch_backend.build_module(spec, 0)
        theirs = keras_backend.build_module(spec, 0)
        for one, two in zip(ours.parameters(), theirs.trainable_variables, strict=True):
            one, two = one.detach().numpy(), np.asarray(two)
            assert abs(one.std() - two.std()) <= 5 * one.std() / np.sqrt(one.size), two.shape
            if one.size > 200:
                assert abs(np.abs(one).max() / np.abs(two).max() - 1) < 0.5


def test_strategies_of_the_config_are_those_of_the_backends():
    for name, backend in (("torch", torch_backend), ("tensorflow", keras_backend)):
        assert BY_FRAMEWORK[name]["products"] == backend.PRODUCT_STRATEGIES
        assert BY_FRAMEWORK[name]["points"] == backend.POINT_STRATEGIES
        assert BY_FRAMEWORK[name]["precision"] == backend.PRECISIONS
    assert set(zoo.builders()) > set(BY_FRAMEWORK["tensorflow"]["model"])


@pytest.mark.parametrize("batchnorm", ["recompute", "interpolate"])
def test_oracle_15_planes_with_other_statistics(batchnorm):
    both, vectors = pair("resnet20", "float64"), directions(pair("resnet20", "float64"), 1, seed=2)
    moving = np.random.default_rng(3).standard_normal((1, len(both.at[0][1])))
    also = {"moving": moving} if batchnorm == "interpolate" else {}
    losses = [
        problem.restrict(theta, rows, buffers, batchnorm=batchnorm, **also).metrics(np.array([[0.0], [0.1]]))
        for problem, (theta, buffers), rows in zip(both.problems, both.at, vectors, strict=True)
    ]
    assert_same(*losses, 1e-9)
    assert abs(losses[0][1, 0] - losses[0][0, 0]) > 1e-3
