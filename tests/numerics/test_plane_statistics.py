"""BatchNorm on planes: statistics estimated anew at each point, and moved along between checkpoints."""

import copy

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import FlatNetwork, TorchProblem
from lossatlas.data import Split, Subset
from lossatlas.drivers import curvature_map, landscape
from lossatlas.drivers.base import Order
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import directions
from lossatlas.geometry.directions.direction_set import Axes, read_axes
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, Trajectory
from lossatlas.parallel import Timing, World, work_units
from torch import nn
from torch.func import functional_call

from tests.numerics.test_batchnorm import CROSS_ENTROPY, FLOAT64, network, point, problem_of

POINTS = np.array([[0.0, 0.0], [0.5, -1.0], [2.0, 0.3]])


def plane_of(problem):
    theta, buffers = point(problem)
    return theta, 0.3 * np.random.default_rng(2).standard_normal((2, theta.size)), buffers


def after_a_pass_in_training_mode(module, theta, inputs):
    """The oracle: the module itself, whose running statistics are those of one batch of all samples."""
    module = copy.deepcopy(module)
    nn.utils.vector_to_parameters(torch.tensor(theta), module.parameters())
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train().momentum = 1.0
    with torch.no_grad():
        module(torch.tensor(inputs))
    return module.eval()


def test_recomputed_statistics_are_those_of_a_pass_in_training_mode():
    """On any chunks, and of the training samples where others are evaluated."""
    module = network().eval()
    split, problem = problem_of(module, batchnorm="frozen")
    _, whole = problem_of(module, batch=13, batchnorm="frozen")
    rng = np.random.default_rng(9)
    test = Split(1 + rng.standard_normal((7, 2, 8, 8)), rng.integers(0, 4, 7))
    other = TorchProblem(problem.network, CROSS_ENTROPY, test, 4)
    center, vectors, buffers = plane_of(problem)
    found = problem.restrict(center, vectors, buffers, batchnorm="recompute").metrics(POINTS)
    once = whole.restrict(center, vectors, buffers, batchnorm="recompute").metrics(POINTS[::-1])[::-1]
    tested = other.restrict(center, vectors, buffers, batchnorm="recompute", reference=problem).metrics(POINTS)
    frozen = problem.restrict(center, vectors, buffers).metrics(POINTS)
    for k, at in enumerate(POINTS):
        moved = after_a_pass_in_training_mode(module, center + at @ vectors, split.inputs)
        for samples, values in ((split, (found[k], once[k])), (test, (tested[k],))):
            with torch.no_grad():
                outputs, targets = moved(torch.tensor(samples.inputs)), torch.tensor(samples.targets)
                loss = nn.functional.cross_entropy(outputs, targets).item()
                accuracy = (outputs.argmax(1) == targets).double().mean().item()
            for value in values:
                assert value[:2] == pytest.approx([loss, accuracy], rel=1e-12)
        assert abs(frozen[k, 0] / found[k, 0] - 1) > 1e-3


def test_recomputing_leaves_the_next_point_alone():
    _, problem = problem_of(network(), batchnorm="frozen")
    at = plane_of(problem)
    together = problem.restrict(*at, batchnorm="recompute").metrics(POINTS)
    problem._estimates.clear()
    alone = problem.restrict(*at, batchnorm="recompute")
    assert np.array_equal(np.concatenate([alone.metrics(POINTS[k : k + 1]) for k in (2, 1, 0)])[::-1], together)
    assert np.array_equal(problem.restrict(*at).metrics(POINTS), problem.restrict(*at).metrics(POINTS))


def test_without_batchnorm_there_is_nothing_to_recompute():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    split = Split(rng.standard_normal((7, 6)), rng.integers(0, 3, 7))
    problem = TorchProblem(FlatNetwork(nn.Linear(6, 3), FLOAT64), CROSS_ENTROPY, split, 3)
    at = plane_of(problem)
    recomputed = problem.restrict(*at, "folded", batchnorm="recompute")
    assert recomputed.strategy == "folded"
    assert np.allclose(recomputed.metrics(POINTS), problem.restrict(*at).metrics(POINTS), rtol=1e-12)


@pytest.fixture
def recorded(tmp_path):
    """A run of three checkpoints with running statistics of their own, and its problem."""
    module = network().eval()
    _, problem = problem_of(module, batchnorm="frozen")
    theta, buffers = point(problem)
    rng = np.random.default_rng(4)
    made = store.create(
        tmp_path / "trajectory.zarr",
        (tmp_path / ".stores").mkdir() or tmp_path,
        store.Fingerprint("trajectory", {}),
        problem.network.recording(np.arange(3)).build,
    )
    writer = RowWriter(made)
    for _ in range(3):
        row = {
            "parameters": theta + 0.2 * rng.standard_normal(theta.size),
            "buffers": buffers * rng.uniform(0.5, 1.5, buffers.size),
        }
        writer.append(**row, batch_loss=np.nan, learning_rate=np.nan)
    writer.flush()
    made.finish({})
    return Trajectory(made.path), problem


def built(tmp_path, trajectory, problem, axes, batchnorm):
    spec = {"center": "last", "points": [5, 4], "border": 0.4, "batchnorm": batchnorm}
    spec["range"] = {"x": [-2, 2], "y": [0, 3]}
    subset = Subset(Split(np.zeros((13, 1)), np.zeros(13)), np.arange(13), "digest", False)
    job = landscape.Landscape({"plane": spec}, axes, trajectory, {"train": problem}, {"train": subset})
    made = job.create(Order(tmp_path / f"{batchnorm}.zarr", tmp_path, "test"), job.plan())
    evaluator = job.evaluator(made)
    work_units.compute(made, evaluator, World(), Timing(), "static", "test")
    landscape.Landscape.finish(made, {})
    return made


def test_statistics_move_along_between_checkpoints(tmp_path, recorded):
    trajectory, problem = recorded
    spec = {"kind": "difference", "center": "last", "to": [{"iteration": 0}, {"iteration": 1}]}
    spec |= {"normalize": "none", "ignore": []}
    made = directions.make_directions(spec, trajectory, {})
    path = tmp_path / "directions.zarr"
    stored = store.create(
        path, tmp_path, store.Fingerprint("directions", spec), lambda g: made.build(g, trajectory.layout, spec)
    )
    stored.finish({})
    axes = read_axes([(stored.path, 0), (stored.path, 1)])
    found = built(tmp_path, trajectory, problem, axes, "interpolate")
    assert found.attrs["batchnorm"].startswith("interpolate: ")
    assert found["x"][:].tolist() == [-2, -1, 0, 1, 2]
    own = found["path_true_loss"][0]
    assert found["loss"][0][0, [2, 3]] == pytest.approx(own[[2, 0]], rel=1e-12), "last at (0, 0), first at (1, 0)"
    assert found["loss"][0][1, 2] == pytest.approx(own[1], rel=1e-12), "the second one at (0, 1)"
    buffers = [trajectory.buffers(k) for k in range(3)]
    variances = np.repeat([False, True, False, True], [3, 3, 5, 5])
    x, y = -2, 3
    moved = buffers[2] + x * (buffers[0] - buffers[2]) + y * (buffers[1] - buffers[2])
    assert found["clipped_variances"][3, 0] == (moved[variances] < 0).sum() > 0
    assert (found["clipped_variances"][0, [2, 3]] == 0).all()
    moved[variances] = np.maximum(moved[variances], 0)
    thetas = [trajectory.parameters(k) for k in range(3)]
    theta = thetas[2] + x * (thetas[0] - thetas[2]) + y * (thetas[1] - thetas[2])
    assert found["loss"][0][3, 0] == pytest.approx(problem.metrics(theta, moved)[0], rel=1e-10)


def test_stores_of_planes_say_which_and_refuse_what_cannot_move(tmp_path, recorded):
    trajectory, problem = recorded
    _, vectors, _ = plane_of(problem)
    axes = Axes(vectors, ["a", "b"], np.array([0.5, 0.2]), {})
    frozen, recomputed = (built(tmp_path, trajectory, problem, axes, b) for b in ("frozen", "recompute"))
    assert recomputed.attrs["batchnorm"].startswith("recompute: at each point of the plane mean and unbiased variance")
    assert frozen.attrs["batchnorm"].startswith("frozen: running statistics of theta_c")
    assert recomputed.attrs["strategy"] == "eager"
    assert np.array_equal(frozen["path_true_loss"][:], recomputed["path_true_loss"][:])
    assert (np.abs(frozen["loss"][:] / recomputed["loss"][:] - 1) > 1e-6).all()
    with pytest.raises(LossAtlasError, match=r"plane.batchnorm: 'interpolate' needs differences of checkpoints"):
        built(tmp_path, trajectory, problem, axes, "interpolate")


@pytest.mark.parametrize("policy", ["frozen", "recompute", "interpolate"])
def test_curvature_follows_the_statistics_of_the_plane(tmp_path, recorded, policy):
    """Extreme eigenvalues of dense Hessians of the module itself, given each point's statistics."""
    trajectory, problem = recorded
    module, (split, _) = network().eval(), problem_of(network(), batchnorm="frozen")
    thetas, buffers = ([one(k) for k in range(3)] for one in (trajectory.parameters, trajectory.buffers))
    vectors, moving = (np.stack([one[k] - one[2] for k in (0, 1)]) for one in (thetas, buffers))
    axes = Axes(vectors, ["a", "b"], np.array([0.5, 0.2]), {}, buffers=moving)
    plane = {"center": "last", "border": 0.4, "range": {"x": [-2, 1], "y": [0, 1]}, "batchnorm": policy}
    spec = {"points": [2, 2], "tolerance": 1e-9, "max_products": 900, "operator": "hessian", "parameters": ["*"]}
    spec |= {"seed": 0, "memory_gb": 1.0, "strategy": "rebuild", "batchnorm": "frozen"}
    subset = Subset(split, np.arange(13), "digest", False)
    job = curvature_map.CurvatureMap({"curvature": spec, "plane": plane}, problem, subset, axes, trajectory)
    made = store.create(tmp_path / "c.zarr", tmp_path, store.Fingerprint("curvature", spec), job.build)
    assert made.attrs["batchnorm"].startswith(f"{policy}: ")
    made.update(strategy="rebuild")
    evaluate = job.evaluator(made)
    names = dict(module.named_parameters())
    inputs, targets = torch.tensor(split.inputs), torch.tensor(split.targets)
    for number, at in enumerate([(-2, 0), (1, 0), (-2, 1), (1, 1)]):
        theta = thetas[2] + np.array(at) @ vectors
        moved = buffers[2] + (np.array(at) @ moving if policy == "interpolate" else 0)
        moved[[3, 4, 5, 11, 12, 13, 14, 15]] = np.maximum(moved[[3, 4, 5, 11, 12, 13, 14, 15]], 0)
        if policy == "recompute":
            passed = after_a_pass_in_training_mode(module, theta, split.inputs)
            moved = np.concatenate([b.flatten() for b in passed.buffers() if b.is_floating_point()])
        kept = [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
        given = torch.tensor(moved).split([b.numel() for _, b in kept])
        statistics = {n: part.view(b.shape) for (n, b), part in zip(kept, given, strict=True)}

        def loss(t, statistics=statistics):
            parts = t.split([p.numel() for p in names.values()])
            parameters = {n: part.view(p.shape) for (n, p), part in zip(names.items(), parts, strict=True)}
            return nn.functional.cross_entropy(functional_call(module, (parameters, statistics), (inputs,)), targets)

        dense = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, torch.tensor(theta)).numpy())
        found = dict(zip(curvature_map.COLUMNS, evaluate(range(number, number + 1))[0], strict=True))
        assert found["loss"] == pytest.approx(float(loss(torch.tensor(theta))), rel=1e-10)
        assert found["largest"] == pytest.approx(dense[-1], rel=1e-6)
        assert found["smallest"] == pytest.approx(dense[0], abs=1e-6 * abs(dense).max())


def test_curvature_refuses_statistics_that_cannot_move(tmp_path, recorded):
    trajectory, problem = recorded
    axes = Axes(plane_of(problem)[1], ["a", "b"], np.array([0.5, 0.2]), {})
    spec = {"points": [2, 2], "tolerance": 1e-9, "max_products": 9, "operator": "hessian", "parameters": ["*"]}
    plane = {"center": "last", "border": 0.4, "batchnorm": "interpolate"}
    subset = Subset(None, np.arange(13), "digest", False)
    job = curvature_map.CurvatureMap({"curvature": spec, "plane": plane}, problem, subset, axes, trajectory)
    with pytest.raises(LossAtlasError, match=r"'interpolate' needs differences of checkpoints"):
        store.create(tmp_path / "c.zarr", tmp_path, store.Fingerprint("curvature", spec), job.build)
