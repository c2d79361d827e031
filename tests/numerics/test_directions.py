"""Directions against hand computations and sklearn (oracle 16)."""

import json
import sys
from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, build_loss
from lossatlas.data import Split, Subset
from lossatlas.errors import LossAtlasError
from lossatlas.geometry import directions
from lossatlas.geometry.directions import check_independent, make_directions, orthogonalize, random, read_axes
from lossatlas.geometry.directions import pca as pca_module
from lossatlas.geometry.directions.direction_set import Axes, angles, variance_shares
from lossatlas.geometry.directions.gradient import batches, gradient
from lossatlas.geometry.directions.unnormalized import Source
from lossatlas.geometry.normalization import drop, normalize
from lossatlas.io import trajectory as trajectory_module
from lossatlas.io.layout import ParameterLayout, ParameterSlot
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

from tests.conftest import ROOT, contents, make_trajectory, mpiexec

FLOAT64 = Device(torch.device("cpu"), torch.float64)


def pca(trajectory, center, count, center_rows, solver):
    choices = {"count": count, "center_rows": center_rows, "solver": solver, "seed": 0}
    return pca_module.make(choices, Source(trajectory, center))


class Mixed(nn.Module):
    """Every kind of parameter that normalisation treats in its own way."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.dense = nn.Linear(4, 5)


@pytest.fixture
def mixed():
    torch.manual_seed(0)
    network = FlatNetwork(Mixed(), FLOAT64)
    return network.layout, network.parameters(), np.random.default_rng(1).standard_normal(network.layout.size)


def part(layout, vector, name):
    slot = next(slot for slot in layout if slot.name == name)
    return vector[slot.slice].reshape(slot.shape)


def test_layout_knows_kinds_and_filters(mixed):
    kinds = {slot.name: (slot.kind, slot.filter_axis) for slot in mixed[0]}
    assert kinds == {
        "conv.weight": ("weight", 0),
        "conv.bias": ("bias", None),
        "norm.weight": ("norm-scale", None),
        "norm.bias": ("norm-shift", None),
        "up.weight": ("weight", 1),
        "up.bias": ("bias", None),
        "dense.weight": ("weight", 0),
        "dense.bias": ("bias", None),
    }


def test_filter_norm_equals_the_hand_computation(mixed):
    layout, theta, raw = mixed
    used = normalize(drop(raw, layout, ["bias", "norm"]), theta, layout, "filter")
    for name, filters in (("conv.weight", range(3)), ("dense.weight", range(5))):
        for i in filters:
            d, t = part(layout, raw, name)[i], part(layout, theta, name)[i]
            expected = d / np.sqrt((d**2).sum()) * np.sqrt((t**2).sum())
            assert np.allclose(part(layout, used, name)[i], expected, rtol=1e-14, atol=0)
    for i in range(2):
        d, t = part(layout, raw, "up.weight")[:, i], part(layout, theta, "up.weight")[:, i]
        assert np.allclose(part(layout, used, "up.weight")[:, i], d / np.linalg.norm(d) * np.linalg.norm(t), rtol=1e-14)
    for name in ("conv.bias", "norm.weight", "norm.bias", "up.bias", "dense.bias"):
        assert not part(layout, used, name).any()


def test_zero_slices_stay_zero_and_never_make_nan(mixed):
    layout, theta, raw = mixed
    part(layout, raw, "conv.weight")[1] = 0
    part(layout, theta, "dense.weight")[2] = 0
    for how in ("filter", "layer", "model"):
        used = normalize(raw, theta, layout, how)
        assert np.isfinite(used).all()
        assert not part(layout, used, "conv.weight")[1].any()
    assert not part(layout, normalize(raw, theta, layout, "filter"), "dense.weight")[2].any()


def joined(layout, vector, *names):
    return np.concatenate([part(layout, vector, name).reshape(-1) for name in names])


def test_layer_and_model_norms(mixed):
    layout, theta, raw = mixed
    used = normalize(raw, theta, layout, "layer")
    for layer in ("conv", "norm", "up", "dense"):
        r, u, t = (joined(layout, v, f"{layer}.weight", f"{layer}.bias") for v in (raw, used, theta))
        assert np.allclose(u, r * np.linalg.norm(t) / np.linalg.norm(r), rtol=1e-14, atol=0)
    used = normalize(drop(raw, layout, ["bias"]), theta, layout, "layer")
    for layer in ("conv", "up", "dense"):
        weights = np.linalg.norm(part(layout, theta, f"{layer}.weight"))
        assert np.isclose(np.linalg.norm(part(layout, used, f"{layer}.weight")), weights, rtol=1e-14)
        assert not part(layout, used, f"{layer}.bias").any(), "what is dropped plays no part in a layer's norm"
    model = normalize(raw, theta, layout, "model")
    assert np.isclose(np.linalg.norm(model), np.linalg.norm(theta), rtol=1e-14)
    assert np.allclose(model / np.linalg.norm(model), raw / np.linalg.norm(raw), rtol=1e-13)
    assert np.array_equal(normalize(raw, theta, layout, "none"), raw)


def test_kept_biases_count_as_one_filter(mixed):
    layout, theta, raw = mixed
    used = normalize(drop(raw, layout, ["norm"]), theta, layout, "filter")
    for name in ("conv.bias", "dense.bias"):
        assert np.isclose(np.linalg.norm(part(layout, used, name)), np.linalg.norm(part(layout, theta, name)))
    assert not part(layout, used, "norm.weight").any()


@pytest.mark.parametrize("solver", ["gram", "randomized", "incremental"])
def test_oracle_16_centred_pca_agrees_with_sklearn(tmp_path, random_path, solver):
    trajectory = make_trajectory(tmp_path, random_path)
    oracle = PCA(n_components=3, svd_solver="full").fit(random_path[:-1] - random_path[-1])
    ours = pca(trajectory, 29, 3, True, solver)
    tolerance = 1e-8 if solver != "incremental" else 1e-3
    if solver == "incremental":  # exact only when one batch holds all rows
        assert np.abs(np.sum(ours.vectors * oracle.components_, axis=1)).min() > 1 - tolerance
    else:
        assert np.abs(ours.vectors - oracle.components_).max() < tolerance
    assert np.allclose(ours.values["explained_variance_ratio"], oracle.explained_variance_ratio_, rtol=tolerance)


def test_incremental_pca_in_one_batch_is_exact(tmp_path, random_path):
    trajectory = make_trajectory(tmp_path, random_path[:20])
    oracle = PCA(n_components=2, svd_solver="full").fit(random_path[:19] - random_path[19])
    ours = pca(trajectory, 19, 2, True, "incremental")
    assert np.abs(ours.vectors - oracle.components_).max() < 1e-8
    assert np.allclose(ours.values["explained_variance_ratio"], oracle.explained_variance_ratio_, rtol=1e-8)


@pytest.mark.parametrize("center", [0, 12, 29])
def test_uncentred_pca_equals_the_svd_of_m(tmp_path, random_path, center):
    m = np.delete(random_path, center, axis=0) - random_path[center]
    _, singular, oracle = np.linalg.svd(m, full_matrices=False)
    ours = pca(make_trajectory(tmp_path, random_path), center, 2, False, "gram")
    assert np.abs(np.abs(np.sum(ours.vectors * oracle[:2], axis=1)) - 1).max() < 1e-10
    assert np.allclose(ours.values["explained_variance_ratio"], singular[:2] ** 2 / (singular**2).sum(), rtol=1e-10)
    assert ours.notes["share_of"] == "second moment about theta_c"


def test_pca_of_float32_paths_far_from_the_origin(tmp_path, random_path):
    """Differences are formed in float64 before anything is summed, so a large common offset does not matter."""
    path = (1e3 + 1e-2 * random_path).astype(np.float32)
    oracle = PCA(n_components=2, svd_solver="full").fit(path[:-1].astype(float) - path[-1].astype(float))
    ours = pca(make_trajectory(tmp_path, path), 29, 2, True, "gram")
    assert np.abs(ours.vectors - oracle.components_).max() < 1e-8


def test_oracle_16_pca_of_large_float32_trajectories_in_float32(tmp_path, random_path, monkeypatch):
    path = (1e3 + 1e-2 * random_path).astype(np.float32)
    oracle = PCA(n_components=2, svd_solver="full").fit(path[:-1].astype(float) - path[-1].astype(float))
    trajectory = make_trajectory(tmp_path, path)
    monkeypatch.setattr(pca_module, "FLOAT64_UP_TO", 0)
    ours = pca(trajectory, 29, 2, True, "gram")
    assert ours.notes["arithmetic"] == "float32"
    assert np.abs(ours.vectors - oracle.components_).max() < 1e-6
    assert np.allclose(ours.values["explained_variance_ratio"], oracle.explained_variance_ratio_, rtol=1e-6)
    line = make_trajectory(tmp_path / "line", np.outer(np.arange(10.0), random_path[0]).astype(np.float32))
    with pytest.raises(LossAtlasError, match="spans fewer than 2 directions"):
        pca(line, 9, 2, True, "gram")


def test_pca_streams_column_blocks(tmp_path, random_path, monkeypatch):
    """Many narrow blocks give what one block gives."""
    trajectory = make_trajectory(tmp_path, random_path)
    whole = pca(trajectory, 29, 2, True, "gram")
    original = type(trajectory).column_blocks
    narrow = partialmethod(original, max_bytes=8 * 30 * 7)
    monkeypatch.setattr(type(trajectory), "column_blocks", narrow)
    assert sum(1 for _ in trajectory.column_blocks()) == 72
    narrow = pca(trajectory, 29, 2, True, "gram")
    assert np.abs(whole.vectors - narrow.vectors).max() < 1e-12


@pytest.mark.parametrize("rows", [30, 3])
def test_blocks_are_read_from_chunk_files_as_zarr_reads_them(tmp_path, random_path, monkeypatch, rows):
    monkeypatch.setattr(trajectory_module, "CHUNK_COLUMNS", 64)
    monkeypatch.setattr(trajectory_module, "CHUNK_ROWS", 7)
    trajectory = make_trajectory(tmp_path, random_path[:rows].astype(np.float32))
    assert trajectory.store["parameters"].chunks == (min(rows, 7), 64)
    for within in (None, slice(60, 200), slice(130, 131), slice(5, 5)):
        blocks = [(c, b.copy()) for c, b in trajectory.column_blocks(within, max_bytes=8 * rows * 50)]
        assert all(b.shape == (rows, c.stop - c.start) for c, b in blocks)
        found = np.concatenate([b for _, b in blocks], axis=1) if blocks else np.empty((rows, 0))
        assert np.array_equal(found, random_path[:rows].astype(np.float32)[:, within or slice(None)])
    monkeypatch.setattr(trajectory, "_plain", False)
    found = np.concatenate([b.copy() for _, b in trajectory.column_blocks(slice(60, 200))], axis=1)
    assert np.array_equal(found, random_path[:rows, 60:200].astype(np.float32))


def test_a_torn_chunk_file_is_named(tmp_path, random_path):
    trajectory = make_trajectory(tmp_path, random_path)
    file = trajectory.store.path / "parameters/c/0/0"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LossAtlasError, match=r"parameters/c/0/0: torn, this chunk is damaged"):
        list(trajectory.column_blocks())


@pytest.mark.mpi
def test_oracle_14_principal_components_are_the_same_on_any_ranks_and_threads(tmp_path, random_path):
    trajectory = make_trajectory(tmp_path, random_path.astype(np.float32))
    described = spec("pca", normalize="layer")
    script, found = ROOT / "scripts/pca.py", []
    for ranks, threads in ((1, 2), (3, 2), (4, 1)):
        folder = tmp_path / f"{ranks}x{threads}"
        arguments = {"--output": folder / "directions/pca.zarr", "--run-dir": folder, "--spec": json.dumps(described)}
        arguments |= {"--label": "pca", "--trajectory": trajectory.path, "--timing": folder / "timing.json"}
        arguments |= {"--ranks": ranks, "--threads": threads}
        flat = [str(part) for pair in arguments.items() for part in pair]
        mpiexec(ranks, sys.executable, str(script), *flat)
        found.append(contents(folder / ".stores/directions/pca.zarr"))
        assert len(json.loads((folder / "timing.json").read_text())["ranks"]) == ranks
    assert all(store == found[0] for store in found)
    alone = make_directions(described, trajectory, {})
    assert np.array_equal(xr.open_zarr(folder / "directions/pca.zarr", chunks=None)["used"].values, alone.used)


def test_pca_of_too_short_or_too_flat_paths_is_refused(tmp_path, random_path):
    short = make_trajectory(tmp_path / "short", random_path[:3])
    with pytest.raises(LossAtlasError, match=r"2 principal components need at least 4 recorded checkpoints, .* has 3"):
        pca(short, 2, 2, True, "gram")
    line = make_trajectory(tmp_path / "line", np.outer(np.arange(10.0), random_path[0]))
    for solver in ("gram", "randomized"):
        with pytest.raises(LossAtlasError, match="spans fewer than 2 directions"):
            pca(line, 9, 2, True, solver)


ONES = """
import numpy as np
from lossatlas.geometry.directions.unnormalized import RawDirections

def make(spec, source):
    return RawDirections(np.full((1, source.trajectory.layout.size), float(spec["height"])), ["ones"])
"""


def test_a_new_kind_of_direction_is_one_module_besides_its_model(tmp_path, random_path, monkeypatch):
    (tmp_path / "ones_of_a_test.py").write_text(ONES)
    monkeypatch.setattr(directions, "__path__", [*directions.__path__, str(tmp_path)])
    trajectory = make_trajectory(tmp_path, random_path)
    made = make_directions({**spec("ones_of_a_test", normalize="none"), "height": 3}, trajectory, {})
    assert made.raw.labels == ["ones"]
    assert (made.used == 3).all()


def test_random_directions_depend_on_seed_and_number_alone():
    def drawn(size, count, seed):
        source = Source(SimpleNamespace(layout=SimpleNamespace(size=size)), 0)
        return random.make({"count": count, "seed": seed}, source).vectors

    assert np.array_equal(drawn(50, 3, 7)[:2], drawn(50, 2, 7))
    assert not np.array_equal(drawn(50, 1, 7), drawn(50, 1, 8))
    many = drawn(200_000, 2, 0)
    assert np.abs(many.mean(axis=1)).max() < 4 / np.sqrt(200_000)
    assert np.abs(many.var(axis=1) - 1).max() < 4 * np.sqrt(2 / 200_000)
    assert abs(np.corrcoef(many)[0, 1]) < 4 / np.sqrt(200_000)


def spec(kind, **keys):
    return {
        "kind": kind,
        "center": "last",
        "normalize": "none",
        "ignore": [],
        "count": 2,
        "seed": 0,
        "center_rows": True,
        "solver": "gram",
        **keys,
    }


def test_differences_within_and_between_runs(tmp_path, random_path):
    here, there = make_trajectory(tmp_path / "a", random_path), make_trajectory(tmp_path / "b", 2 * random_path)
    ends = [{"iteration": 3}, {"iteration": "first", "run": "b"}]
    made = make_directions(spec("difference", to=ends), here, {"b": there})
    assert np.allclose(made.used[0], random_path[3] - random_path[29], atol=1e-14)
    assert np.allclose(made.used[1], 2 * random_path[0] - random_path[29], atol=1e-14)
    assert made.raw.labels == ["to iteration 3", "to iteration 0 of b"]
    with pytest.raises(LossAtlasError, match="iteration 77 was not recorded"):
        make_directions(spec("difference", to=[{"iteration": 77}]), here, {})
    other = make_trajectory(tmp_path / "c", random_path[:, :100])
    with pytest.raises(LossAtlasError, match="another network"):
        make_directions(spec("difference", to=[{"iteration": 0, "run": "c"}]), here, {"c": other})
    with pytest.raises(LossAtlasError, match="is zero"):
        make_directions(spec("difference", to=[{"iteration": "last"}]), here, {})


def test_variance_share_of_a_principal_component_is_its_explained_variance(tmp_path, random_path):
    trajectory = make_trajectory(tmp_path, np.concatenate([random_path, random_path.mean(axis=0)[None]]))
    made = make_directions(spec("pca"), trajectory, {})
    centred = random_path - random_path.mean(axis=0)
    oracle = np.linalg.svd(centred, compute_uv=False)[:2] ** 2 / (centred**2).sum()
    assert np.allclose(made.variance_share, oracle, rtol=1e-8)


def two_tensors():
    slots = (ParameterSlot("a", (2, 3), 0, "weight", 0), ParameterSlot("b", (4,), 6, "bias", None))
    return ParameterLayout(slots)


@pytest.mark.parametrize("form", ["npy", "npz", "named npz", "safetensors", "pt"])
def test_directions_from_files_of_every_form(tmp_path, form):
    rng = np.random.default_rng(0)
    vectors, file = rng.standard_normal((2, 10)), tmp_path / f"own.{form.split()[-1]}"
    flat = {"one": vectors[0], "two": vectors[1]}
    named = {
        f"{k}/{n}": t for k, v in flat.items() for n, t in (("a", v[:6].reshape(2, 3).copy()), ("b", v[6:].copy()))
    }
    if form == "npy":
        np.save(file, vectors)
    elif form == "safetensors":
        save_file(named, file)
    elif form == "pt":
        torch.save({name: torch.tensor(t) for name, t in named.items()}, file)
    else:
        np.savez(file, **(named if "named" in form else flat))
    trajectory = make_trajectory(tmp_path, rng.standard_normal((3, 10)), two_tensors())
    made = make_directions(spec("file", path=str(file)), trajectory, {})
    assert np.array_equal(made.used, vectors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ({"one": np.zeros(9)}, "9 numbers, the network has 10"),
        ({"one": np.full(10, np.nan)}, "NaN or inf"),
        ({"one/a": np.zeros((2, 3))}, "'b' is missing"),
        ({"one/a": np.zeros((2, 3)), "one/b": np.zeros(4), "one/c": np.zeros(1)}, "'c' is no trained parameter"),
    ],
)
def test_bad_direction_files_are_named(tmp_path, content, message):
    if content is not None:
        np.savez(tmp_path / "own.npz", **content)
    trajectory = make_trajectory(tmp_path, np.random.default_rng(0).standard_normal((3, 10)), two_tensors())
    with pytest.raises(LossAtlasError, match=message):
        make_directions(spec("file", path=str(tmp_path / "own.npz")), trajectory, {})


def test_angles_are_accurate_at_both_ends():
    e = np.eye(2)
    assert angles(np.stack([e[0], e[1]]))[0, 1] == pytest.approx(90, abs=1e-12)
    assert angles(np.stack([e[0], -3 * e[0]]))[0, 1] == pytest.approx(180, abs=1e-12)
    tiny = angles(np.stack([e[0], e[0] + 1e-10 * e[1]]))[0, 1]
    assert tiny == pytest.approx(np.degrees(1e-10), rel=1e-6)


def test_dependent_directions_span_no_plane():
    v = np.random.default_rng(0).standard_normal((2, 100))
    check_independent(v, ["a", "b"])
    for other in (v[0] * 5, -v[0], v[0] + 1e-9 * v[1]):
        with pytest.raises(LossAtlasError, match="'a' and 'b' are linearly dependent"):
            check_independent(np.stack([v[0], other]), ["a", "b"])


def test_a_plane_refuses_a_direction_that_the_set_lacks(tmp_path, random_path):
    from lossatlas.io import store

    trajectory, link = make_trajectory(tmp_path, random_path), tmp_path / "directions" / "r.zarr"
    made = make_directions(spec("random"), trajectory, {})
    fingerprint = store.Fingerprint("directions", {})
    store.find(link, tmp_path, fingerprint)
    built = store.create(link, tmp_path, fingerprint, lambda g: made.build(g, trajectory.layout, spec("random")))
    built.finish({})
    store.publish(link, tmp_path)
    axes = read_axes([(link, 0), (link, 1)])
    assert np.array_equal(axes.vectors, made.used)
    with pytest.raises(LossAtlasError, match=r"direction 3 of .*r.zarr, which holds 2"):
        read_axes([(link, 0), (link, 2)])


GRADIENT = {"count": 2, "seed": 5, "batchnorm": "frozen", "batch_size": 4}


@pytest.fixture
def classifier(tmp_path):
    """A small network, its samples and a trajectory of two checkpoints, the last one the network's."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    inputs, targets = torch.randn(17, 4, dtype=torch.float64), torch.randint(0, 3, (17,))
    network = FlatNetwork(module, FLOAT64)
    thetas = np.stack([np.zeros(network.layout.size), network.parameters()])
    split = Split(inputs.numpy(), targets.numpy())
    subset = Subset(split, np.arange(100, 117), split.digest, True)
    return module, network, subset, make_trajectory(tmp_path, thetas, network.layout)


def by_autograd(module, subset):
    """Return minus the gradient of the mean loss, by one backward pass of PyTorch's."""
    samples = torch.tensor(subset.samples.inputs), torch.tensor(subset.samples.targets)
    module.zero_grad()
    functional.cross_entropy(module(samples[0]), samples[1]).backward()
    return -torch.cat([p.grad.reshape(-1) for p in module.parameters()]).numpy()


def gradients(network, trajectory, subset, spec):
    loss = build_loss({"name": "cross-entropy"})
    problems = {n: TorchProblem(network, loss, b.samples, 4) for n, b in batches(subset, spec).items()}
    return gradient(problems, trajectory, 1, spec)


def test_the_negative_gradient_equals_autograds(classifier):
    module, network, subset, trajectory = classifier
    made = gradients(network, trajectory, subset, GRADIENT)
    assert made.labels == ["negative gradient"]
    assert np.allclose(made.vectors[0], by_autograd(module, subset), rtol=1e-11, atol=1e-14)
    assert made.notes["samples"] == 17


def test_gradients_of_batches_are_those_of_their_samples_and_keyed_by_seed(classifier):
    module, network, subset, trajectory = classifier
    spec = {**GRADIENT, "samples": 6}
    found = batches(subset, spec)
    assert list(found) == ["negative gradient, batch 1", "negative gradient, batch 2"]
    made = gradients(network, trajectory, subset, spec)
    for batch, vector in zip(found.values(), made.vectors, strict=True):
        assert len(set(batch.index)) == 6, "drawn without replacement"
        assert np.array_equal(batch.samples.inputs, subset.samples.inputs[batch.index - 100])
        assert np.allclose(vector, by_autograd(module, batch), rtol=1e-11, atol=1e-14)
    one, two = (batch.index.tolist() for batch in found.values())
    assert one != two
    assert [b.index.tolist() for b in batches(subset, {**spec, "count": 1}).values()] == [one]
    assert batches(subset, {**spec, "seed": 6})["negative gradient, batch 1"].index.tolist() != one
    whole = gradients(network, trajectory, subset, {**spec, "samples": 17, "count": 1})
    assert np.allclose(whole.vectors[0], by_autograd(module, subset), rtol=1e-11, atol=1e-14)


def test_impossible_gradients_are_refused(classifier):
    _, network, subset, trajectory = classifier
    with pytest.raises(LossAtlasError, match=r"directions.samples: 18, but the evaluation subset has 17"):
        batches(subset, {**GRADIENT, "samples": 18})
    network.load(theta=np.full(network.layout.size, np.nan))
    broken = make_trajectory(trajectory.path.parent, np.full((2, network.layout.size), np.nan), network.layout, "nan")
    with pytest.raises(LossAtlasError, match="the gradient at iteration 1 is NaN or infinite"):
        gradients(network, broken, subset, GRADIENT)


def test_orthogonalised_axes_span_the_same_plane_and_keep_the_third_checkpoint_at_one(tmp_path, random_path):
    trajectory = make_trajectory(tmp_path, random_path)
    ends = [{"iteration": 0}, {"iteration": 12}]
    made = make_directions(spec("difference", to=ends), trajectory, {})
    places = {"one": [1.0, 0.0], "two": [0.0, 1.0]}
    given = Axes(made.used, made.raw.labels, made.variance_share, {}, ends=places)
    axes = orthogonalize(given, trajectory)
    (x, y), third = axes.vectors, random_path[12] - random_path[29]
    assert np.array_equal(x, made.used[0])
    assert abs(x @ y) < 1e-14 * np.linalg.norm(x) * np.linalg.norm(y)
    assert axes.notes["angle"] == pytest.approx(90, abs=1e-10)
    assert axes.notes["end_names"] == ["one", "two"]
    assert axes.ends["one"] == [1, 0]
    assert np.allclose(axes.ends["two"] @ axes.vectors, third, rtol=1e-9)
    cosine = made.used[0] @ third / np.linalg.norm(made.used[0]) / np.linalg.norm(third)
    assert axes.notes["angle_given"] == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-10)
    coefficients, residual, *_ = np.linalg.lstsq(axes.vectors.T, third, rcond=None)
    assert coefficients[1] == pytest.approx(1, rel=1e-12)
    assert residual[0] < 1e-20 * (third @ third)
    assert np.allclose(axes.variance_share, variance_shares(axes.vectors, trajectory))
    assert given.notes["angle"] == given.notes["angle_given"] == pytest.approx(axes.angle_given)
