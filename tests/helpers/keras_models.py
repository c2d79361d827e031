"""Keras models of a user's own, good and bad ones, for tests of the TensorFlow backend."""

import keras
import tensorflow as tf
from keras import layers


def smooth(inputs: int = 6, hidden: int = 5, classes: int = 3) -> keras.Model:
    """Two dense layers with tanh between."""
    first = layers.Dense(hidden, activation="tanh")
    return keras.Sequential([keras.Input((inputs,)), first, layers.Dense(classes)])


class Own(keras.Model):
    """A subclassed model with a BatchNorm and dropout; built by a call."""

    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, strides=2)
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)
        self.out = layers.Dense(3)

    def call(self, x, training=False):
        x = self.norm(keras.activations.tanh(self.conv(x)), training=training)
        return self.out(keras.ops.mean(self.drop(x, training=training), (1, 2)))


def own() -> keras.Model:
    """Return it, built for 8 x 8 x 3 images."""
    model = Own()
    model(tf.zeros((1, 8, 8, 3), keras.config.floatx()))
    return model


def several(named: bool) -> keras.Model:
    """Embeds tokens, adds up those that a mask leaves, and scales them: three inputs, by name or by place."""
    ids, mask, scale = (keras.Input(shape, name=name, dtype=dtype) for name, shape, dtype in SEVERAL)
    left = layers.Embedding(5, 3)(ids) * keras.ops.cast(mask, keras.config.floatx())[..., None]
    scores = layers.Dense(3)(keras.ops.tanh(keras.ops.sum(left, 1)) * scale[:, None])
    inputs = {"ids": ids, "mask": mask, "scale": scale} if named else [ids, mask, scale]
    return keras.Model(inputs, scores)


SEVERAL = (("ids", (4,), "int32"), ("mask", (4,), "bool"), ("scale", (), None))


def unbuilt() -> keras.Model:
    """A model that does not yet know its inputs."""
    return keras.Sequential([layers.Dense(3)])


def untrained() -> keras.Model:
    """A model of which nothing is trained."""
    model = smooth()
    model.trainable = False
    return model


def mixed() -> keras.Model:
    """A model in mixed precision."""
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, dtype="mixed_bfloat16", name="half")])


def probabilities() -> keras.Model:
    """A model that ends with a softmax."""
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, activation="softmax")])


class Normalised(layers.Layer):
    """Local response normalisation, which TensorFlow differentiates once only."""

    def call(self, x):
        return tf.nn.local_response_normalization(x)


class Enlarged(layers.Layer):
    """Bilinear interpolation, of whose gradient TensorFlow takes the derivative to be zero."""

    def call(self, x):
        return tf.raw_ops.ResizeBilinear(images=x, size=(8, 8), half_pixel_centers=True)


def without_second_derivative(layer: str) -> keras.Model:
    """A model for 4 x 4 x 3 images with one of the two."""
    made = {"normalised": Normalised, "enlarged": Enlarged}[layer]()
    steps = [layers.Conv2D(4, 3), made, layers.Activation("tanh"), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((4, 4, 3)), *steps])


_moments = tf.nn.moments  # taken before anything could replace it


class OneTermMissing(layers.Layer):
    """Normalises by moments whose second derivative TensorFlow gets wrong."""

    def call(self, x):
        mean, variance = _moments(x, [-1], keepdims=True)
        return (x - mean) / keras.ops.sqrt(variance + 0.1)


class Stopped(layers.Layer):
    """Half of what it hands on has no gradient."""

    def call(self, x):
        return 0.5 * x + 0.5 * keras.ops.stop_gradient(x)


class Counting(layers.Layer):
    """Another function whenever Python has seen it often, which a traced graph does not notice."""

    calls = 0

    def call(self, x):
        Counting.calls += 1
        return x * (1 + 1e-3 * (Counting.calls // 1000))


def with_layer(layer: str) -> keras.Model:
    """Three dense layers, with one of these in the middle."""
    made = {"moments": OneTermMissing, "stopped": Stopped, "counting": Counting}[layer]()
    steps = [layers.Dense(5, activation="tanh", name="first"), layers.Dense(4, name="before"), made]
    return keras.Sequential([keras.Input((6,)), *steps, layers.Dense(3, name="behind")])


class Two(keras.Model):
    """A model with two outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = layers.Dense(4, activation="tanh"), layers.Dense(3), layers.Dense(1)

    def call(self, x):
        x = self.body(x)
        return {"scores": self.a(x), "size": self.b(x)}


def two() -> keras.Model:
    """Return it, built."""
    model = Two()
    model(tf.zeros((1, 6), keras.config.floatx()))
    return model


def masked() -> keras.Model:
    """Scores for each token, with the mask of the padded ones."""
    steps = [layers.Embedding(5, 3, mask_zero=True), layers.LSTM(3, return_sequences=True), layers.Dense(3)]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *steps])


def of_both(outputs, targets):
    """A loss of two outputs, one value per sample."""
    scores, size = outputs["scores"], outputs["size"][:, 0]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, scores) + tf.square(size - 1)


def share_of_both(outputs, targets):
    """The same, divided by something of all samples together."""
    return of_both(outputs, targets) / (1 + tf.reduce_mean(tf.square(outputs["size"])))


WEIGHTS = [1.0, 1.0, 20.0]


def weighted(outputs, targets):
    """Mean over the samples weighted by class, as frameworks do it."""
    weights = tf.cast(tf.gather(WEIGHTS, targets), outputs.dtype)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs)
    return tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)


def weighed(outputs, targets):
    """Each sample's loss times the weight of its class."""
    weights = tf.cast(tf.gather(WEIGHTS, targets), outputs.dtype)
    return weights * tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs)


def confidence(outputs, targets):
    """The largest share of each sample, a metric."""
    return keras.ops.max(keras.ops.softmax(outputs), axis=1)


def top2(outputs, targets):
    """Whether each sample's class is among the two of the highest scores, a metric."""
    return keras.ops.in_top_k(targets, keras.ops.cast(outputs, "float32"), 2)


def summed(outputs, targets):
    """No mean over samples."""
    return keras.ops.sum(outputs)
