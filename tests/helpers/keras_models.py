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


def confidence(outputs, targets):
    """The largest share of each sample, a metric."""
    return keras.ops.max(keras.ops.softmax(outputs), axis=1)


def top2(outputs, targets):
    """Whether each sample's class is among the two of the highest scores, a metric."""
    return keras.ops.in_top_k(targets, keras.ops.cast(outputs, "float32"), 2)


def summed(outputs, targets):
    """No mean over samples."""
    return keras.ops.sum(outputs)
