"""The TensorFlow backend: layouts, products, state, training, recording, checkpoints, and what it refuses."""

import shutil
import subprocess
import sys
from itertools import pairwise

import keras
import lossatlas
import numpy as np
import pytest
import tensorflow as tf
from lossatlas import config
from lossatlas.backends import metrics_of_run
from lossatlas.backends import tensorflow as backend
from lossatlas.backends.tensorflow import hessian, optimizers
from lossatlas.backends.tensorflow.memory import peak_bytes
from lossatlas.backends.tensorflow.network import to_numpy
from lossatlas.backends.tensorflow.optimizers import make_optimizer, make_rate
from lossatlas.backends.tensorflow.products import CurvatureMatrix
from lossatlas.data import Split, read
from lossatlas.errors import LossAtlasError
from lossatlas.io.trajectory import Trajectory
from lossatlas.krylov.tree_sum import LEAVES, fold
from lossatlas.problem.readiness import check_memory

from tests.conftest import ROOT, environment
from tests.helpers import keras_models

CROSS_ENTROPY = {"name": "cross-entropy"}
rng = np.random.default_rng(7)
backend.set_up("cpu", "float32", 1)  # before anything computes
VECTORS = Split(rng.standard_normal((11, 6)), rng.integers(0, 3, 11))
IMAGES = Split(rng.standard_normal((11, 3, 8, 8)), rng.integers(0, 3, 11))
SMALL = Split(rng.standard_normal((11, 3, 4, 4)), rng.integers(0, 3, 11))


def network(name="smooth", dtype="float64", **kwargs):
    device = backend.set_up("cpu", dtype, 1)
    spec = {"import": f"tests.helpers.keras_models:{name}", "python_path": [str(ROOT)], "kwargs": kwargs}
    return backend.FlatNetwork(backend.build_module(spec, 0), device)


def problem(net, split=VECTORS, batch_size=4, batchnorm="frozen"):
    return backend.KerasProblem(net, backend.build_loss(CROSS_ENTROPY), split, batch_size, batchnorm)


def at(net):
    return net.parameters(), net.buffers()


def dense_hessian(made, theta, buffers, step=1e-5):
    """Central differences of the gradient."""
    rows = [
        (made.gradient(theta + step * unit, buffers) - made.gradient(theta - step * unit, buffers)) / (2 * step)
        for unit in np.eye(len(theta))
    ]
    return np.array(rows)


def test_layout_of_a_subclassed_model():
    net = network("own")
    kinds = {slot.name: (slot.kind, slot.filter_axis) for slot in net.layout}
    assert kinds == {
        "conv2d.kernel": ("weight", 3),
        "conv2d.bias": ("bias", None),
        "batch_normalization.gamma": ("norm-scale", None),
        "batch_normalization.beta": ("norm-shift", None),
        "dense.kernel": ("weight", 1),
        "dense.bias": ("bias", None),
    }
    assert [name for name, _ in net.recording(range(1)).buffers] == [
        "batch_normalization.moving_mean",
        "batch_normalization.moving_variance",
    ]
    assert net.layout == network("own").layout, "names do not depend on what was built before"


def test_variances_are_known_by_their_names():
    net = network("own")
    names = np.repeat([name for name, _ in net.recording(range(1)).buffers], 4)
    assert np.array_equal(net.variances(), names == "batch_normalization.moving_variance")


def test_kinds_of_norms_and_biases():
    """What ``ignore: [bias, norm]`` finds, whatever its shape."""
    layers, inputs = keras.layers, keras.Input((6, 4))
    x = layers.LayerNormalization(axis=(1, 2), name="layer")(inputs)
    x = layers.GroupNormalization(2, name="group")(x)
    x = layers.RMSNormalization(name="root")(layers.UnitNormalization()(x))
    x = layers.EinsumDense("abc,bcd->abd", (6, 4), bias_axes="bd", name="product")(x)
    x = layers.SpectralNormalization(layers.Conv1DTranspose(3, 2, name="back"), name="spectral")(x)
    x = layers.GRU(2, return_sequences=True, name="gated")(layers.MultiHeadAttention(2, 3, name="heads")(x, x))
    x = layers.Bidirectional(layers.LSTM(2, name="ways"), name="both")(x)
    model = keras.Model(inputs, layers.Dense(3, name="end")(x))
    layout = backend.FlatNetwork(model, backend.device_of(model)).layout
    kinds = {}
    for slot in layout:
        kinds.setdefault(slot.kind, []).append((slot.name, slot.shape))
    assert kinds["norm-scale"] == [("layer.gamma", (6, 4)), ("group.gamma", (4,)), ("root.scale", (4,))]
    assert kinds["norm-shift"] == [("layer.beta", (6, 4)), ("group.beta", (4,))]
    biases = dict(kinds["bias"])
    assert {shape for name, shape in biases.items() if name.startswith("heads")} == {(2, 3), (3,)}
    assert (biases["product.bias"], biases["gated.gru_cell.bias"], biases["spectral.back.bias"]) == (
        (6, 4),
        (2, 6),
        (3,),
    )
    assert [name for name, _ in kinds["weight"] if "bias" in name or "norm" in name] == []
    axes = {slot.name: slot.filter_axis for slot in layout if slot.kind == "weight"}
    assert axes["spectral.back.kernel"] == 1, "a transposed kernel, though the layer around it knows it too"
    assert axes["gated.gru_cell.kernel"] == axes["gated.gru_cell.recurrent_kernel"] == 1
    assert axes["product.kernel"] == (0, 2)


def test_filter_axes_of_all_kinds_of_kernels():
    layers, inputs = keras.layers, keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depth")(inputs)
    x = layers.SeparableConv2D(5, 3, name="apart")(x)
    x = layers.Conv2DTranspose(6, 3, name="back")(x)
    x = layers.Reshape((36, 6))(x)
    x = layers.MultiHeadAttention(2, 3, name="heads")(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="end")(x))
    axes = {s.name: (s.kind, s.filter_axis) for s in backend.FlatNetwork(model, backend.device_of(model)).layout}
    assert axes["depth.kernel"] == ("weight", (2, 3))
    assert axes["apart.depthwise_kernel"] == ("weight", (2, 3))
    assert axes["apart.pointwise_kernel"] == ("weight", 3)
    assert axes["back.kernel"] == ("weight", 2)
    assert axes["heads.query.kernel"] == ("weight", (1, 2))
    assert axes["heads.attention_output.kernel"] == ("weight", 2)
    assert axes["heads.query.bias"] == ("bias", None)
    assert axes["norm.gamma"] == ("norm-scale", None)
    assert axes["end.kernel"] == ("weight", 1)


@pytest.mark.parametrize("strategy", ["nested", "forward"])
def test_oracles_2_3_4_5_products_of_a_smooth_network(strategy):
    net = network()
    made, (theta, buffers) = problem(net), at(net)
    expected = dense_hessian(made, theta, buffers)
    found = made.linearize(theta, buffers, strategy=strategy).matmat(np.eye(len(theta)))
    scale = np.linalg.norm(expected, 2)
    assert np.abs(found - expected).max() <= 1e-6 * scale
    assert np.abs(found - found.T).max() <= 1e-12 * scale
    whole = problem(net, batch_size=11).linearize(theta, buffers, strategy=strategy).matmat(np.eye(len(theta)))
    assert np.abs(found - whole).max() <= 1e-12 * scale
    parts = [
        made.linearize(theta, buffers, operator=op, strategy=strategy).matmat(np.eye(len(theta)))
        for op in ("ggn", "residual")
    ]
    assert np.abs(found - sum(parts)).max() <= 1e-12 * scale
    assert np.linalg.eigvalsh(parts[0]).min() >= -1e-12 * scale
    assert np.abs(parts[1]).max() > 1e-3 * scale


@pytest.mark.parametrize("named", [True, False])
def test_oracles_2_3_of_a_network_with_several_inputs(named):
    draw = np.random.default_rng(3)
    ids, mask, scale = draw.integers(5, size=(11, 4)), draw.random((11, 4)) < 0.7, draw.random(11)
    given = {"ids": ids, "mask": mask, "scale": scale} if named else (ids, mask, scale)
    split = read((given, draw.integers(0, 3, 11)), "data")
    made = problem(network("several", named=named), split)
    (theta, buffers), sizes = at(made.network), [15, 9, 3]
    assert [slot.size for slot in made.layout] == sizes

    def value(theta):
        table, kernel, bias = (part.reshape(-1, 3) for part in np.split(theta, np.cumsum(sizes)[:-1]))
        scores = np.tanh((table[ids] * mask[..., None]).sum(1)) * scale[:, None] @ kernel + bias
        return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(11), split.targets])

    assert made.metrics(theta, buffers)[0] == pytest.approx(value(theta), rel=1e-12)
    steps = 1e-5 * np.eye(len(theta))
    central = np.array([(value(theta + step) - value(theta - step)) / 2e-5 for step in steps])
    assert np.abs(made.gradient(theta, buffers) - central).max() < 1e-8
    products = made.linearize(theta, buffers, strategy="nested").matmat(np.eye(len(theta)))
    assert np.abs(products - dense_hessian(made, theta, buffers)).max() < 1e-8
    train = {"batch_size": 11, "epochs": 1, "optimizer": "SGD", "optimizer_kwargs": {}, "learning_rate": 0.1}
    trainer = backend.Trainer(made.network, backend.build_loss(CROSS_ENTROPY), split, train, 0)
    assert trainer.step(0)[0] == pytest.approx(value(theta), rel=1e-12)


def test_products_restricted_to_parameters_are_a_block():
    net = network()
    made, (theta, buffers) = problem(net), at(net)
    whole = made.linearize(theta, buffers).matmat(np.eye(len(theta)))
    last = slice(net.layout.slots[2].offset, None)
    operator = made.linearize(theta, buffers, parameters=("dense_1.*",))
    assert operator.size == 18
    assert np.abs(operator.matmat(np.eye(18)) - whole[last, last]).max() <= 1e-13 * np.abs(whole).max()


def test_oracle_3_batch_statistics_are_part_of_the_derivative():
    net = network("own")
    made, (theta, buffers) = problem(net, IMAGES, 6, "batch"), at(net)
    expected = dense_hessian(made, theta, buffers)
    found = made.linearize(theta, buffers).matmat(np.eye(len(theta)))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    frozen = problem(net, IMAGES, 6).gradient(theta, buffers)
    assert np.abs(made.gradient(theta, buffers) - frozen).max() > 1e-3 * np.abs(frozen).max()
    with pytest.raises(LossAtlasError, match="more than one value per channel"):
        problem(network("own"), Split(IMAGES.inputs[:5, :, :3, :3], IMAGES.targets[:5]), 4, "batch").metrics(*at(net))


def test_oracle_2_layers_that_normalise_by_their_inputs():
    layers = keras.layers
    backend.set_up("cpu", "float64", 1)
    norms = layers.LayerNormalization(), layers.GroupNormalization(2, axis=-1)
    steps = [layers.Dense(4, activation="tanh"), *norms, layers.Dense(3)]
    net = backend.FlatNetwork(keras.Sequential([keras.Input((6,)), *steps]), backend.set_up("cpu", "float64", 1))
    made, (theta, buffers) = problem(net, batch_size=11), at(net)
    theta = theta + 0.1 * np.random.default_rng(0).standard_normal(len(theta))
    expected = dense_hessian(made, theta, buffers)
    found = made.linearize(theta, buffers).matmat(np.eye(len(theta)))
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_no_retracing_per_product_or_point():
    net = network()
    made, (theta, buffers) = problem(net), at(net)
    for seed in range(3):
        operator = made.linearize(theta + 0.1 * seed, buffers)
        operator.matmat(np.random.default_rng(seed).standard_normal((4, len(theta))))
        made.metrics(theta + seed, buffers)
    assert made.matrix().products["nested"].traces == 2, "whole chunks and a ragged last one"
    assert made.sums.traces == 2
    plane = made.restrict(theta, np.stack([theta, 1 - theta]), buffers)
    plane.metrics(np.random.default_rng(0).standard_normal((5, 2)))
    assert (made.sums.traces, plane._place.traces) == (2, 1)


def test_random_sums_have_the_standard_errors_of_paired_samples():
    """Over 3000 of them, in ragged chunks; what a point's metrics are stays."""
    net = network()
    made, (theta, buffers) = problem(net), at(net)
    points = theta, theta + 0.3 * np.random.default_rng(0).standard_normal(len(theta))
    plain = np.stack([made.metrics(point, buffers) for point in points])
    made.sketch(3000)
    found = np.stack([made.metrics(point, buffers) for point in points])
    assert np.array_equal(found[:, : plain.shape[1]], plain)
    singles = [problem(net, Split(VECTORS.inputs[k : k + 1], VECTORS.targets[k : k + 1]), 1) for k in range(11)]
    each = np.array([[one.metrics(point, buffers)[0] for one in singles] for point in points])
    exact = (each[0] - each[1]).std(ddof=1) / np.sqrt(11)
    noise = found[:, plain.shape[1] :]
    assert np.sqrt(np.square(noise[0] - noise[1]).mean()) == pytest.approx(exact, rel=0.07)
    assert np.sqrt(np.square(noise).mean(axis=1)) == pytest.approx(plain[:, -1], rel=0.07)


def test_sums_do_not_depend_on_who_sums_which_leaves():
    net = network(dtype="float32")
    made, (theta, buffers) = problem(net, batch_size=1), at(net)
    operator, vectors = made.linearize(theta, buffers), np.random.default_rng(0).standard_normal((2, len(theta)))
    whole = operator.matmat(vectors)
    for cuts in ([0, 5, 16], [0, 1, 2, 9, 16]):
        shares = [operator.partial(vectors, range(a, b)) for a, b in pairwise(cuts)]
        assert np.array_equal(fold([branch for share in shares for branch in share])[0][1], whole)
    assert cuts[-1] == LEAVES


def test_arrays_cross_to_numpy_without_a_copy():
    tensor = network().vector(np.arange(1000.0))
    one, two = to_numpy(tensor), to_numpy(tensor)
    assert one.ctypes.data == two.ctypes.data
    assert np.array_equal(one, np.arange(1000.0))


def test_memory_cuts_chunks_and_is_refused_when_too_little():
    net = network("own")
    made, (theta, buffers) = problem(net, IMAGES, 11), at(net)
    whole = made.linearize(theta, buffers)
    graphs = [made.matrix().graph("nested", whole.theta, whole.buffers, made.pieces(most)[0]) for most in (11, 3)]
    assert 2 < peak_bytes(graphs[0]) / peak_bytes(graphs[1]) < 4
    enough = made.choose_strategy(theta, buffers, 1, strategy="nested").peak / 2**30
    cut = made.linearize(theta, buffers, memory_gb=enough - 0.5 * 1.5 * peak_bytes(graphs[0]) / 2**30)
    assert len(cut._pieces) > len(whole._pieces) == 1
    vector = np.ones(len(theta))
    assert np.allclose(cut.matvec(vector), whole.matvec(vector), rtol=0, atol=1e-12)
    with pytest.raises(LossAtlasError, match=r"memory_gb: 0.0001 is too little"):
        made.linearize(theta, buffers, memory_gb=1e-4)


@pytest.mark.parametrize("batchnorm", ["frozen", "batch"])
def test_too_little_memory_is_said_from_one_sample_or_one_chunk_and_nothing_is_trained(batchnorm):
    net, need = network("own"), {"strategy": "auto", "batch_size": 5, "batchnorm": batchnorm}
    before, loss = at(net), backend.build_loss(CROSS_ENTROPY)
    least = backend.least_product_bytes(net, loss, IMAGES, need) / 2**30
    assert all(np.array_equal(a, b) for a, b in zip(before, at(net), strict=True))
    made = problem(net, IMAGES, 5, batchnorm)
    with pytest.raises(LossAtlasError, match="too little"):
        made.linearize(*at(net), memory_gb=0.999 * least, strategy="auto")
    made.linearize(*at(net), memory_gb=1.001 * least, strategy="auto").matvec(np.ones(made.layout.size))
    needs = {"runs.x.spectra": {**need, "memory_gb": 1.0}, "runs.x.tracking": {**need, "memory_gb": 0.5 * least}}
    with pytest.raises(LossAtlasError, match=r"^runs.x.tracking.memory_gb: 0.0\d+ is too little: at least about 0.0"):
        check_memory(backend, net, CROSS_ENTROPY, IMAGES, needs)


def test_memory_of_loops_is_foreseen():
    """At least the gates of every step are kept for second derivatives; products are cut to what there is."""
    layers, units, samples = keras.layers, 16, 10
    peaks = {}
    for steps in (10, 40):
        device = backend.set_up("cpu", "float64", 1)
        model = keras.Sequential([keras.Input((steps, 3)), layers.LSTM(units), layers.Dense(3)])
        net = backend.FlatNetwork(model, device)
        split = Split(np.random.default_rng(0).standard_normal((samples, steps, 3)), np.arange(samples) % 3)
        made = problem(net, split, samples)
        graph = made.matrix().graph("nested", *map(net.vector, at(net)), made.chunks[0])
        peaks[steps] = peak_bytes(graph)
        assert peaks[steps] > 4 * 8 * units * samples * steps
    assert 3 < peaks[40] / peaks[10] < 4.5
    whole = made.linearize(*at(net))
    tight = (whole.peak - 0.5 * 1.5 * peaks[40]) / 2**30
    cut = made.linearize(*at(net), memory_gb=tight)
    assert len(cut._pieces) > len(whole._pieces) == 1
    vector = np.ones(net.layout.size)
    assert np.allclose(cut.matvec(vector), whole.matvec(vector), rtol=0, atol=1e-12)


def test_oracle_18_the_model_is_untouched():
    net = network("own")
    before = [np.array(v) for v in net.model.variables]
    made, (theta, buffers) = problem(net, IMAGES, 4, "batch"), at(net)
    made.linearize(theta + 1, buffers).matvec(theta)
    made.metrics(theta + 1, buffers)
    made.restrict(theta, theta[None], buffers).metrics(np.array([[2.0]]))
    for old, variable in zip(before, net.model.variables, strict=True):
        assert np.array_equal(old, np.array(variable))
    assert "call" not in vars(net.model.norm)


def test_nan_is_kept_by_planes_and_named_by_products():
    net = network()
    made, (theta, buffers) = problem(net), at(net)
    theta[0] = np.nan
    assert np.isnan(made.metrics(theta, buffers)[0])
    with pytest.raises(LossAtlasError, match="not finite in chunk 0 of 3"):
        made.linearize(theta, buffers)


TRAIN = {
    "optimizer": "Adam",
    "optimizer_kwargs": {"betas": [0.8, 0.99], "weight_decay": 1e-3},
    "learning_rate": 0.05,
    "schedule": {"name": "CosineAnnealingLR", "kwargs": {"T_max": 9}},
    "batch_size": 4,
    "epochs": 3,
}


def trainer(spec=TRAIN, name="own", split=IMAGES):
    return backend.Trainer(network(name, "float32"), backend.build_loss(CROSS_ENTROPY), split, spec, 0)


def test_oracle_19_training_resumes_bit_for_bit_with_dropout_and_buffers():
    whole = trainer()
    steps = [whole.step(i) for i in range(whole.steps)]
    first = trainer()
    assert [first.step(i) for i in range(4)] == steps[:4]
    second = trainer()
    second.load_state(first.state())
    assert [second.step(i) for i in range(4, whole.steps)] == steps[4:]
    for found in ("parameters", "buffers"):
        assert np.array_equal(getattr(whole.network, found)(), getattr(second.network, found)())
    assert steps[-1][0] < steps[0][0]
    assert np.abs(whole.network.buffers() - network("own", "float32").buffers()).max() > 1e-3


def test_sgd_takes_the_steps_that_its_definition_says():
    spec = {**TRAIN, "optimizer": "SGD", "optimizer_kwargs": {"momentum": 0.5, "weight_decay": 0.1}}
    del spec["schedule"]
    made = trainer(spec, "smooth", VECTORS)
    theta, velocity = made.network.parameters().astype(np.float64), 0.0
    for iteration in range(made.steps):
        inputs, targets = (part.numpy()[made._chosen(iteration)] for part in (made.inputs, made.targets))
        gradient = problem(network(), Split(inputs.astype(np.float64), targets), 100).gradient(theta, np.zeros(0))
        made.step(iteration)
        velocity = 0.5 * velocity + gradient + 0.1 * theta
        theta = theta - 0.05 * velocity
        assert np.abs(made.network.parameters() - theta).max() < 1e-5


def test_learning_rates_are_those_of_pytorch():
    import torch

    for name, kwargs in (
        ("StepLR", {"step_size": 2, "gamma": 0.3}),
        ("MultiStepLR", {"milestones": [1, 4]}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01}),
    ):
        rate = make_rate({"learning_rate": 0.2, "schedule": {"name": name, "kwargs": kwargs}})
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
        theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **kwargs)
        for iteration in range(7):
            assert abs(rate(iteration) - optimizer.param_groups[0]["lr"]) < 1e-12
            optimizer.step()
            theirs.step()
    assert set(optimizers._AS_TORCH) == set(config.SCHEDULES_OF_BOTH)
    schedule = {"name": "ExponentialDecay", "kwargs": {"decay_steps": 2, "decay_rate": 0.5}}
    assert abs(make_rate({"learning_rate": 0.2, "schedule": schedule})(4) - 0.05) < 1e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "Sgd"}, "'Sgd' is not an optimiser in keras.optimizers"),
        ({"optimizer_kwargs": {"lr": 1}}, "not as 'lr'"),
        ({"optimizer_kwargs": {"momentun": 1}}, "Adam refuses its arguments"),
        ({"schedule": {"name": "OneCycleLR", "kwargs": {}}}, "'OneCycleLR' is neither in keras.optimizers.schedules"),
        ({"schedule": {"name": "StepLR", "kwargs": {}}}, "step refuses its arguments"),
    ],
)
def test_bad_training_is_one_line(change, message):
    with pytest.raises(LossAtlasError, match=message) as error:
        make_optimizer({**TRAIN, **change}), make_rate({**TRAIN, **change})
    assert "\n" not in str(error.value)


def fitted(folder, every=1, epochs=3, callbacks=(), **kwargs):
    """A model of the user's own that recorded its training."""
    backend.set_up("cpu", "float32", 1)
    keras.utils.set_random_seed(1)
    model = keras_models.smooth()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, **kwargs)
    recorder = backend.KerasRecorder(folder / "trajectory.zarr", every)
    fitting = {"batch_size": 4, "epochs": epochs, "verbose": 0, "callbacks": [recorder, *callbacks]}
    model.fit(VECTORS.inputs, VECTORS.targets, **fitting)
    return model, Trajectory(folder / "trajectory.zarr")


def test_recorder_writes_what_fit_does(tmp_path):
    model, trajectory = fitted(tmp_path, every=2)
    assert trajectory.iterations.tolist() == [0, 2, 4, 6, 8, 9]
    net = backend.FlatNetwork(model, backend.device_of(model))
    assert np.array_equal(trajectory.parameters(5), net.parameters())
    losses, rates = trajectory.store["batch_loss"][:], trajectory.store["learning_rate"][:]
    assert np.isfinite(losses[:5]).all() and np.isnan(losses[5])
    assert np.allclose(rates[:5], 0.1)
    assert np.allclose(trajectory.store["epoch"][:], trajectory.iterations / 3)
    _, full = fitted(tmp_path)
    assert full.iterations.tolist() == list(range(10))
    moved = full.parameters(1) - full.parameters(0)
    assert 0 < np.abs(moved).max() < 1
    theirs = full.store["batch_loss"][:][[0, 2, 4, 6, 8]]
    assert np.allclose(theirs, losses[:5], rtol=1e-5)


def test_recorder_notes_an_early_end_and_refuses_what_hides_steps(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    _, trajectory = fitted(tmp_path, callbacks=[Stop()])
    assert len(trajectory) == trajectory.store["parameters"].shape[0] < 10
    with pytest.raises(LossAtlasError, match="steps_per_execution=2"):
        fitted(tmp_path, steps_per_execution=2)


def test_checkpoints_of_both_kinds_and_of_another_model(tmp_path):
    net = network("own", "float32")
    theta, buffers = np.arange(net.layout.size, dtype=np.float32), net.buffers() + 3
    net.load(theta=theta, buffers=buffers)
    files = tmp_path / "a.keras", tmp_path / "a.weights.h5"
    net.model.save(files[0])
    net.model.save_weights(files[1])
    for file in files:
        fresh = network("own", "float64")
        backend.read_checkpoint(file, fresh)
        assert np.array_equal(fresh.parameters(), theta)
        assert np.array_equal(fresh.buffers(), buffers)
        with pytest.raises(LossAtlasError, match="cannot be loaded into this model"):
            backend.read_checkpoint(file, network("smooth", hidden=4))
    with pytest.raises(LossAtlasError, match=r"neither a \.keras nor a \.weights\.h5 file"):
        backend.read_checkpoint(shutil.copy(files[0], tmp_path / "a.pt"), network())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unbuilt", "it has no variables yet; begin it with keras.Input"),
        ("untrained", "no variable is trainable"),
        ("mixed", "layer 'half' has the mixed precision policy 'mixed_bfloat16'"),
    ],
)
def test_bad_models_are_refused(name, message):
    with pytest.raises(LossAtlasError, match=message):
        network(name)


def own_metrics(*names):
    path = [str(ROOT)]
    specs = {n: {"import": f"tests.helpers.keras_models:{n}", "python_path": path} for n in names}
    return metrics_of_run(backend, specs)


def test_own_metrics_are_means_over_all_samples():
    """One value per sample, hits or misses; in ragged chunks, against NumPy."""
    net, loss = network(), backend.build_loss(CROSS_ENTROPY)
    made = backend.KerasProblem(net, loss, VECTORS, 4, metrics=own_metrics("confidence", "top2"))
    assert made.metric_names == ("loss", "accuracy", "confidence", "top2", "loss_standard_error")
    outputs = net.model(VECTORS.inputs).numpy()
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    ranks = (outputs > outputs[range(11), VECTORS.targets][:, None]).sum(1)
    found = made.restrict(at(net)[0], np.zeros((1, len(at(net)[0]))), at(net)[1]).metrics(np.zeros((1, 1)))[0]
    assert np.allclose(found[2:4], [shares.max(1).mean(), (ranks < 2).mean()], rtol=1e-12)
    with pytest.raises(LossAtlasError, match=r"metrics.summed: that of 11 samples is .* must be the mean over samples"):
        backend.KerasProblem(net, loss, VECTORS, 4, metrics=own_metrics("summed"))


def test_models_of_another_precision_are_refused():
    backend.set_up("cpu", "float32", 1)
    model = keras_models.smooth()
    with pytest.raises(LossAtlasError, match=r"is float32, the run's dtype is float64"):
        backend.FlatNetwork(model, backend.set_up("cpu", "float64", 1))


@pytest.mark.parametrize(
    ("layer", "said"), [("normalised", "LRNGrad"), ("enlarged", "it takes that of ResizeBilinearGrad for zero")]
)
def test_operations_without_second_derivative_are_named(layer, said):
    net = network("without_second_derivative", "float32", layer=layer)
    made, (theta, buffers) = problem(net, SMALL), at(net)
    assert np.isfinite(made.gradient(theta, buffers)).all()
    with pytest.raises(LossAtlasError, match=f"no second derivative in TensorFlow .*{said}"):
        made.linearize(theta, buffers).matvec(theta)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", ["hessian", "ggn", "residual"])
def test_what_a_strategy_was_compared_with_and_how_well_it_agreed(dtype, operator):
    net = network("own", dtype)
    found = problem(net, IMAGES).choose_strategy(*at(net), 2, operator=operator).agreement
    assert (found["against"], found["samples"], found["vectors"]) == ("double backward", 4, 3)
    eps = np.finfo(dtype).eps
    assert 0 < found["rounding"] < 100 * eps
    assert max(found["difference"], found["asymmetry"]) < 100 * eps
    assert 0 < found["central_differences"] < 1e-6, "in float64, whatever the network's precision"
    assert {v.dtype for v in net.model.trainable_variables} == {dtype}
    assert {layer.compute_dtype for layer in net.model._flatten_layers()} == {dtype}


def test_a_strategy_that_disagrees_is_dropped_and_said(monkeypatch):
    right = CurvatureMatrix._forward
    monkeypatch.setattr(CurvatureMatrix, "_forward", lambda self, *given: right(self, *given) * (1 + 1e-9))
    monkeypatch.setattr(hessian.Point, "_seconds", lambda at, strategy, *_: {"nested": 1.0, "forward": 0.1}[strategy])
    net = network()
    choice = problem(net).choose_strategy(*at(net), 1)
    assert choice.strategy == "nested"
    words = "those of strategy 'forward' differ from double backward by 1.0e-09 of their size, where rounding is "
    assert words in choice.told and "so it is left out" in choice.told and "\n" not in choice.told
    with pytest.raises(LossAtlasError, match=words):
        problem(net).choose_strategy(*at(net), 1, strategy="forward")
    monkeypatch.setattr(CurvatureMatrix, "_forward", lambda self, *given: tf.roll(right(self, *given), 1, 0))
    with pytest.raises(LossAtlasError, match="differ from double backward"):
        problem(network()).choose_strategy(*at(net), 1, strategy="forward")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("moments", "second derivatives in TensorFlow are not those of the gradient .* parameters of 'before'"),
        ("stopped", "the gradient that TensorFlow gives is not the derivative of the loss .* parameters of 'before'"),
    ],
)
def test_wrong_derivatives_are_found_and_their_layer_is_named(layer, message, dtype):
    """Every strategy gives the same wrong products here, and so does double backward."""
    net = network("with_layer", dtype, layer=layer)
    with pytest.raises(LossAtlasError, match=message) as error:
        problem(net).choose_strategy(*at(net), 1)
    assert "\n" not in str(error.value)


def test_points_agree_with_the_model_called_eagerly_or_are_refused():
    net = network("own", "float32")
    made, (theta, buffers) = problem(net, IMAGES), at(net)
    points = np.array([[0.0], [0.5]])
    found = made.choose_evaluation(theta, np.ones((1, len(theta))), buffers, points, 2).agreement
    assert (found.strategy, found.points, found.samples) == ("graph", 2, 3)
    assert found.difference <= 1e-5 and 0 < found.rounding <= 1e-4
    keras_models.Counting.calls = 0
    net = network("with_layer", layer="counting")
    made, (theta, buffers) = problem(net), at(net)
    made.metrics(theta, buffers)
    keras_models.Counting.calls = 1000
    with pytest.raises(LossAtlasError, match="traced model differ from those of the model called eagerly by"):
        made.choose_evaluation(theta, np.ones((1, len(theta))), buffers, points, 2)


@pytest.mark.parametrize(
    ("net", "split", "message"),
    [
        ("smooth", IMAGES, "model and data do not fit"),
        ("smooth", Split(VECTORS.inputs, VECTORS.targets + 1), "class 3, but the model has 3 outputs"),
        ("smooth", Split(VECTORS.inputs, VECTORS.targets - 1), "the class -1; classes count from 0"),
        ("smooth", Split(VECTORS.inputs, rng.standard_normal(11)), "cross-entropy needs integer classes"),
        ("probabilities", VECTORS, "takes logits, but the model's outputs are probabilities"),
    ],
)
def test_models_and_data_that_do_not_fit(net, split, message):
    with pytest.raises(LossAtlasError, match=message) as error:
        problem(network(net), split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backend_name", ["jax", "torch"])
def test_another_keras_backend_is_refused(backend_name):
    code = "from lossatlas import backends; backends.backend('tensorflow')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(KERAS_BACKEND=backend_name),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert f"backend: 'tensorflow', but KERAS_BACKEND={backend_name}" in done.stderr


def test_no_framework_is_imported_for_another():
    code = (
        "import sys; from lossatlas import backends; from lossatlas.drivers import landscape, spectra, training\n"
        "from lossatlas.data import load_dataset; load_dataset({'name': 'fashion-mnist-mini'})\n"
        "backends.backend('tensorflow'); import lossatlas; lossatlas.plane\n"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
    assert done.stderr == "", "TensorFlow starts silently"


@pytest.fixture
def linear():
    """A linear Keras model, its samples, and its loss in closed form."""
    backend.set_up("cpu", "float64", 1)
    x, y = rng.standard_normal((11, 6)), rng.standard_normal((11, 1))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False)])
    return model, (x, y), lambda theta: np.mean((x @ theta - y[:, 0]) ** 2)


def test_notebooks_take_keras_models(linear):
    model, (x, y), loss = linear
    other = keras.models.clone_model(model)
    theta, end = (one.get_weights()[0][:, 0] for one in (model, other))
    hessian = lossatlas.hessian(model, "mse", (x, y), strategy="nested")
    assert np.abs(hessian.matmat(np.eye(6)) - 2 / 11 * x.T @ x).max() < 1e-12
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    axes, path = [other, rng.standard_normal(6)], [[(theta + t)[:, None]] for t in (2.0, 1.0)]
    plane = lossatlas.plane(model, "mse", batches, axes, path=path, points=(3, 2), range=[(0, 1), (0, 1)])
    exact = [[loss(theta + a * (end - theta) + b * axes[1]) for a in (0, 0.5, 1)] for b in (0, 1)]
    assert plane["loss"].values[0] == pytest.approx(np.array(exact))
    assert plane["path_true_loss"].values[0] == pytest.approx([loss(theta + t) for t in (2, 1, 0)])
    assert np.array_equal(model.get_weights()[0][:, 0], theta), "it is only read"


def test_curves_and_tracking_of_keras_models(linear):
    model, (x, y), loss = linear
    theta, end = model.get_weights()[0][:, 0], rng.standard_normal(6)
    curve = lossatlas.curve(model, "mse", (x, y), to=[end[:, None]], points=3, range=(0, 1))
    assert curve["loss"].values[0, 0] == pytest.approx([loss(theta + a * (end - theta)) for a in (0, 0.5, 1)])
    tracking = lossatlas.track(model, "mse", (x, y), [[end[:, None]]], largest=1, strategy="nested")
    assert tracking["eigenvalue"].values == pytest.approx(np.linalg.eigvalsh(2 / 11 * x.T @ x)[-1], rel=1e-4)
    with pytest.raises(LossAtlasError, match=r"path\[0\]: not weights of this model: shapes \[\(2, 1\)\], needed"):
        lossatlas.track(model, "mse", (x, y), [[np.zeros((2, 1))]])


def test_recomputed_statistics_and_classes_are_those_of_the_samples():
    net = network("own")
    made = problem(net, IMAGES)
    theta, buffers = at(net)
    convolved = keras.activations.tanh(net.model.conv(IMAGES.inputs.transpose(0, 2, 3, 1)))
    values = np.asarray(convolved, np.float64).reshape(-1, 4)
    expected = np.concatenate([values.mean(0), values.var(0, ddof=1)])
    np.testing.assert_allclose(np.sort(made.recomputed(theta, buffers)), np.sort(expected), rtol=1e-10)
    assert made.class_count == 3
