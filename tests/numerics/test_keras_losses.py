"""Losses that people bring: the exact mean over samples in chunks of any size, or refused with one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from lossatlas.backends import tensorflow as backend
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError

from tests.helpers import keras_models

rng = np.random.default_rng(5)
N = 11
VECTORS, CLASSES = rng.standard_normal((N, 6)), rng.integers(0, 3, N)
ONE_HOT, REAL = np.eye(3)[CLASSES], rng.standard_normal((N, 3))
LOSSES = keras.losses


def network(build, dtype="float64"):
    device = backend.set_up("cpu", dtype, 1)
    keras.utils.set_random_seed(3)
    return backend.FlatNetwork(build(), device)


def problem(net, loss, inputs, targets, batch_size=4):
    return backend.KerasProblem(net, backend.as_loss(loss), Split(inputs, targets), batch_size)


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def huber(scores):
    size = np.abs(scores - REAL)
    return np.where(size < 1, 0.5 * size**2, size - 0.5).mean(1)


CASES = {
    "sparse": (
        lambda: LOSSES.SparseCategoricalCrossentropy(from_logits=True),
        CLASSES,
        lambda s: -log_softmax(s)[range(N), CLASSES],
    ),
    "without reduction, ignored class": (
        lambda: LOSSES.SparseCategoricalCrossentropy(from_logits=True, reduction=None, ignore_class=1),
        CLASSES,
        lambda s: np.where(CLASSES == 1, 0, -log_softmax(s)[range(N), CLASSES]),
    ),
    "smoothed": (
        lambda: LOSSES.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3),
        ONE_HOT,
        lambda s: -((0.7 * ONE_HOT + 0.1) * log_softmax(s)).sum(1),
    ),
    "binary": (
        lambda: LOSSES.BinaryCrossentropy(from_logits=True),
        ONE_HOT,
        lambda s: (np.log1p(np.exp(s)) - ONE_HOT * s).mean(1),
    ),
    "squared": (LOSSES.MeanSquaredError, REAL, lambda s: np.square(s - REAL).mean(1)),
    "huber": (LOSSES.Huber, REAL, huber),
    "own weights": (
        lambda: keras_models.weighed,
        CLASSES,
        lambda s: -np.array([1, 1, 20])[CLASSES] * log_softmax(s)[range(N), CLASSES],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_means_over_samples_in_chunks_of_any_size(name):
    """Against NumPy, in float64, though Keras's losses were made for float32."""
    make, targets, by_hand = CASES[name]
    backend.set_up("cpu", "float32", 1)
    loss, net = make(), network(keras_models.smooth)
    theta, buffers = net.parameters(), net.buffers()
    each = by_hand(net.model(VECTORS).numpy())
    products = []
    for size in (1, 3, N):
        made = problem(net, loss, VECTORS, targets, size)
        found = made.metrics(theta, buffers)
        assert abs(found[0] - each.mean()) <= 1e-7 * np.abs(each).max(), "Keras's binary entropies clip at 1e-7"
        assert abs(found[-1] - each.std(ddof=1) / np.sqrt(N)) <= 1e-7 * np.abs(each).max()
        products.append(made.linearize(theta, buffers).matvec(np.ones(len(theta))))
    assert np.abs(np.diff(products, axis=0)).max() <= 1e-13 * np.abs(products).max()


def test_accuracy_leaves_ignored_classes_out():
    net = network(keras_models.smooth)
    ignoring = LOSSES.SparseCategoricalCrossentropy(from_logits=True, reduction=None, ignore_class=1)
    hits = net.model(VECTORS).numpy().argmax(1) == CLASSES
    counted = CLASSES != 1
    assert 0 < counted.sum() < N and hits[counted].mean() != hits.mean()
    for size in (1, 3, N):
        found = problem(net, ignoring, VECTORS, CLASSES, size).metrics(net.parameters(), net.buffers())
        assert abs(found[1] - hits[counted].mean()) <= 1e-12


def test_two_outputs_are_checked_like_one():
    net = network(keras_models.two)
    theta, buffers = net.parameters(), net.buffers()
    outputs = {name: part.numpy() for name, part in net.model(VECTORS).items()}
    each = -log_softmax(outputs["scores"])[range(N), CLASSES] + np.square(outputs["size"][:, 0] - 1)
    for size in (1, 3, N):
        made = problem(net, keras_models.of_both, VECTORS, CLASSES, size)
        assert np.allclose(made.metrics(theta, buffers), [each.mean(), each.std(ddof=1) / np.sqrt(N)], rtol=1e-12)
    v, step = np.ones(len(theta)), 1e-5
    difference = (made.gradient(theta + step * v, buffers) - made.gradient(theta - step * v, buffers)) / (2 * step)
    found = made.linearize(theta, buffers).matvec(v)
    assert np.abs(found - difference).max() <= 1e-7 * np.abs(difference).max()
    for strategy in ("nested", "forward"):
        with pytest.raises(LossAtlasError, match="'ggn' and 'residual' are for models with one output"):
            made.linearize(theta, buffers, operator="ggn", strategy=strategy)
    with pytest.raises(LossAtlasError, match="it must be the mean over samples"):
        problem(net, keras_models.share_of_both, VECTORS, CLASSES)


RARE = np.zeros(300, int)
RARE[[3, 4]] = 2  # none of the 32 samples that the network is tried on
MANY = rng.standard_normal((300, 6))


@pytest.mark.parametrize(
    ("loss", "inputs", "targets"),
    [
        (lambda: keras_models.weighted, MANY, RARE),
        (lambda: LOSSES.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2), MANY, RARE),
        (lambda: LOSSES.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"), VECTORS, CLASSES),
    ],
)
def test_weighted_means_are_refused_wherever_the_weights_lie(loss, inputs, targets):
    assert not RARE[np.linspace(0, 299, 32).astype(int)].any()
    net = network(keras_models.smooth)
    with pytest.raises(LossAtlasError, match=r"loss: that of .* it must be the mean over samples") as error:
        problem(net, loss(), inputs, targets)
    assert "\n" not in str(error.value)


def test_losses_that_read_the_model_are_refused():
    net = network(keras_models.smooth)

    def penalised(outputs, targets):
        return tf.reduce_mean(tf.square(outputs)) + keras.ops.sum(keras.ops.square(net.model.layers[0].kernel))

    with pytest.raises(LossAtlasError, match=r"loss: besides outputs and targets it reads .*'.*kernel'"):
        problem(net, penalised, VECTORS, CLASSES)


def test_masks_by_which_keras_weighs_samples_are_refused():
    """Own functions see no masks; Keras's losses divide by the number of tokens that are not padded."""
    net = network(keras_models.masked)
    tokens, targets = rng.integers(1, 5, (40, 4)), rng.integers(0, 3, (40, 4))
    loss = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    full = [problem(net, loss, tokens, targets, size).metrics(net.parameters(), net.buffers())[0] for size in (3, 40)]
    assert abs(full[0] - full[1]) <= 1e-12
    tokens[2, 1:] = 0  # not among the 32
    with pytest.raises(LossAtlasError, match=r"a mask of padded positions \(mask_zero, Masking\)"):
        problem(net, loss, tokens, targets)
    expected = -np.take_along_axis(log_softmax(net.model(tokens).numpy()), targets[..., None], -1).mean()
    found = problem(net, "cross-entropy", tokens, targets, 3).metrics(net.parameters(), net.buffers())[0]
    assert abs(found - expected) <= 1e-12
