"""Small Keras networks of every kind that people bring, and their curvature without second derivatives."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SAMPLES, CLASSES = 5, 3
rng = np.random.default_rng(11)
_tokens = rng.integers(1, 7, (SAMPLES, 4))
_tokens[[0, 2], [2, 3]] = 0  # padding, which masks leave out
_tokens[0, 3] = 0
DATA = {
    "vectors": rng.standard_normal((SAMPLES, 6)),
    "sequences": rng.standard_normal((SAMPLES, 4, 4)),
    "images": rng.standard_normal((SAMPLES, 2, 8, 8)),
    "tokens": _tokens,
}
TARGETS = rng.integers(0, CLASSES, SAMPLES)
INPUTS = {"vectors": (6,), "sequences": (4, 4), "images": (8, 8, 2), "tokens": (4,)}


def _stack(data: str, *steps) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        given = keras.Input(INPUTS[data], dtype="int32" if data == "tokens" else None)
        x = given
        for step in steps:
            x = step()(x) if isinstance(step, type) else step(x)
        return keras.Model(given, layers.Dense(CLASSES)(x))

    return build


def _dense(units: int, **kwargs) -> Callable:
    return lambda x: layers.Dense(units, activation="tanh", **kwargs)(x)


def _conv(*args, **kwargs) -> Callable:
    return lambda x: layers.Conv2D(*args, activation="tanh", **kwargs)(x)


def _layer(name: str, *args, **kwargs) -> Callable:
    return lambda x: getattr(layers, name)(*args, **kwargs)(x)


def _attention(name: str, *args, **kwargs) -> Callable:
    """A layer of attention to itself."""
    return lambda x: getattr(layers, name)(*args, **kwargs)([x, x])


def _heads(**call) -> Callable:
    return lambda x: layers.MultiHeadAttention(2, 3)(x, x, **call)


def _shared(x):
    """One layer used twice."""
    layer = layers.Dense(4, activation="softplus")
    return layer(layer(x))


def _branches(x):
    """Two ways that meet: by addition, multiplication and side by side."""
    one, two = layers.Dense(4, activation="tanh")(x), layers.Dense(4, activation="sigmoid")(x)
    return layers.Concatenate()([layers.Add()([one, two]), layers.Multiply()([one, two])])


def _tied(x):
    """An embedding that also gives the scores of tokens."""
    table = layers.Embedding(7, 4)
    return layers.Flatten()(layers.Activation("tanh")(table(x) @ keras.ops.transpose(table.embeddings.value)))


class Gated(keras.Model):
    """A subclassed model with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.end = layers.Dense(4), layers.Dense(CLASSES)
        self.gate = self.add_weight(shape=(4,), initializer="ones", name="gate")

    def call(self, x):
        """Return the scores."""
        return self.end(keras.ops.silu(self.body(x)) * keras.ops.sigmoid(self.gate))


def gated() -> keras.Model:
    """Return it, built."""
    model = Gated()
    model(tf.zeros((1, 6), keras.config.floatx()))
    return model


_pool, _flat = _layer("GlobalAveragePooling1D"), _layer("Flatten")
_strided = _conv(2, 3, strides=2)
NETWORKS: dict[str, tuple[str, Callable[[], keras.Model]]] = {
    "dense relu": ("vectors", _stack("vectors", _layer("Dense", 5, "relu"))),
    "dense gelu dropout": ("vectors", _stack("vectors", _layer("Dense", 5, "gelu"), _layer("Dropout", 0.5))),
    "dense prelu selu": ("vectors", _stack("vectors", _layer("Dense", 4), layers.PReLU, _layer("Dense", 3, "selu"))),
    "layer used twice": ("sequences", _stack("sequences", _shared, _pool)),
    "branches": ("vectors", _stack("vectors", _branches)),
    "subclassed": ("vectors", gated),
    "lambda": ("vectors", _stack("vectors", _dense(4), _layer("Lambda", lambda x: keras.ops.logsumexp(x, -1, True)))),
    "conv1d causal dilated": (
        "sequences",
        _stack("sequences", _layer("Conv1D", 3, 2, padding="causal", dilation_rate=2, activation="tanh"), _flat),
    ),
    "conv2d grouped maxpool": (
        "images",
        _stack(
            "images", _conv(4, 3), _layer("Conv2D", 4, 3, groups=2, activation="relu"), _layer("MaxPooling2D", 2), _flat
        ),
    ),
    "conv2d transposed": ("images", _stack("images", _strided, _layer("Conv2DTranspose", 2, 3, strides=2), _flat)),
    "depthwise separable avgpool": (
        "images",
        _stack(
            "images",
            _layer("DepthwiseConv2D", 3, depth_multiplier=2, activation="tanh"),
            _layer("SeparableConv2D", 2, 3),
            _layer("AveragePooling2D", 2),
            _flat,
        ),
    ),
    "upsampling nearest": ("images", _stack("images", _strided, _layer("UpSampling2D", 2), _conv(2, 2), _flat)),
    "upsampling bilinear": (
        "images",
        _stack("images", _strided, _layer("UpSampling2D", 2, interpolation="bilinear"), _flat),
    ),
    "global maxpool": ("images", _stack("images", _conv(4, 3, padding="same"), layers.GlobalMaxPooling2D)),
    "batchnorm": ("images", _stack("images", _strided, layers.BatchNormalization, _layer("Activation", "silu"), _flat)),
    "layernorm": ("sequences", _stack("sequences", _dense(4), _layer("LayerNormalization", axis=(1, 2)), _pool)),
    "groupnorm": ("images", _stack("images", _conv(4, 3, strides=3), _layer("GroupNormalization", 2), _flat)),
    "rmsnorm unitnorm": (
        "sequences",
        _stack("sequences", _dense(4), layers.RMSNormalization, _dense(3), layers.UnitNormalization, _pool),
    ),
    "spectral norm": (
        "vectors",
        _stack("vectors", lambda x: layers.SpectralNormalization(layers.Dense(4, activation="tanh"))(x)),
    ),
    "einsum dense": (
        "sequences",
        _stack("sequences", _layer("EinsumDense", "abc,bcd->abd", (4, 3), bias_axes="bd", activation="tanh"), _pool),
    ),
    "embedding": ("tokens", _stack("tokens", _layer("Embedding", 7, 3), _flat, _dense(3))),
    "embedding masked": ("tokens", _stack("tokens", _layer("Embedding", 7, 3, mask_zero=True), _pool, _dense(3))),
    "embedding tied": ("tokens", _stack("tokens", _tied)),
    "embedding masked lstm": ("tokens", _stack("tokens", _layer("Embedding", 7, 3, mask_zero=True), _layer("LSTM", 2))),
    "lstm": ("sequences", _stack("sequences", _layer("LSTM", 3))),
    "lstm unrolled": ("sequences", _stack("sequences", _layer("LSTM", 2, unroll=True))),
    "gru backwards": ("sequences", _stack("sequences", _layer("GRU", 3, go_backwards=True))),
    "simple rnn sequence": (
        "sequences",
        _stack(
            "sequences",
            _layer("SimpleRNN", 3, return_sequences=True),
            lambda x: layers.TimeDistributed(layers.Dense(2))(x),
            _flat,
        ),
    ),
    "bidirectional gru": (
        "sequences",
        _stack("sequences", lambda x: layers.Bidirectional(layers.GRU(2, reset_after=False))(x)),
    ),
    "attention": ("sequences", _stack("sequences", _dense(4), _attention("Attention", use_scale=True), _pool)),
    "additive attention": ("sequences", _stack("sequences", _dense(4), _attention("AdditiveAttention"), _pool)),
    "multi-head causal": ("sequences", _stack("sequences", _heads(use_causal_mask=True), _pool)),
}
"""Kind of data and how the network is built, by name."""

REFUSED = {
    ("upsampling bilinear", way): "no second derivative in TensorFlow .it takes that of ResizeBilinearGrad for zero"
    for way in ("nested", "forward")
} | {
    (name, "forward"): "forward derivatives do not pass through loops"
    for name in ("embedding masked lstm", "lstm", "gru backwards", "simple rnn sequence", "bidirectional gru")
}
"""What is refused instead of computed: network, strategy, and the words."""

_WEIGHTS = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}


def along(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, v: np.ndarray, step: float) -> np.ndarray:
    """Return the derivative of a function along v by central differences of eighth order."""
    return sum(w * (function(at + k * step * v) - function(at - k * step * v)) for k, w in _WEIGHTS.items()) / step


class ByHand:
    """Mean cross-entropy of a model over samples; only first derivatives, eager, of its variables in place."""

    def __init__(self, model: keras.Model, inputs: np.ndarray, targets: np.ndarray):
        self.model, self.inputs = model, tf.constant(inputs)
        self.shares = tf.one_hot(targets, CLASSES, dtype=model.trainable_variables[0].dtype)

    def assign(self, theta: np.ndarray) -> None:
        """Write the parameters."""
        start = 0
        for variable in self.model.trainable_variables:
            stop = start + int(np.prod(variable.shape))
            variable.assign(theta[start:stop].reshape(variable.shape))
            start = stop

    def scores(self, theta: np.ndarray) -> np.ndarray:
        """Return the outputs (sample, class)."""
        self.assign(theta)
        return self.model(self.inputs).numpy()

    def pulled(self, theta: np.ndarray, output_gradients: np.ndarray) -> np.ndarray:
        """Return J'u for u (sample, class)."""
        self.assign(theta)
        variables = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(variables)
            outputs = self.model(self.inputs)
        parts = tape.gradient(outputs, variables, tf.constant(output_gradients), tf.UnconnectedGradients.ZERO)
        return np.concatenate([tf.convert_to_tensor(part).numpy().ravel() for part in parts])

    def slope(self, scores: np.ndarray) -> np.ndarray:
        """Return the derivative of the loss by the scores."""
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        return (powers / powers.sum(-1, keepdims=True) - self.shares.numpy()) / len(scores)

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Return the gradient of the loss."""
        return self.pulled(theta, self.slope(self.scores(theta)))

    def product(self, operator: str, theta: np.ndarray, v: np.ndarray, step: float = 1e-3) -> np.ndarray:
        """Return H v, GGN v or what is between them."""
        whole = along(self.gradient, theta, v, step) if operator != "ggn" else np.zeros_like(v)
        if operator == "hessian":
            return whole
        pushed, scores = along(self.scores, theta, v, step), self.scores(theta)
        gauss_newton = self.pulled(theta, along(self.slope, scores, pushed, step))
        return gauss_newton if operator == "ggn" else whole - gauss_newton
