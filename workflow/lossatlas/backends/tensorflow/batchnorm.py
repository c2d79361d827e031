"""BatchNorm with the statistics of the samples at hand, as in training, but without moving the running ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.errors import LossAtlasError


def batchnorms(model: keras.Model) -> list[keras.Layer]:
    """Return the BatchNorm layers of a model that are trained; the others keep their running statistics anyway."""
    found = (layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization))
    return [layer for layer in found if layer.trainable]


@contextmanager
def statistics(model: keras.Model, batchnorm: str) -> Iterator[None]:
    """Let BatchNorm normalise by ``batchnorm``, one of ``checks.BATCHNORM``, for a while.

    With ``batch`` it is mean and biased variance over the batch (Ioffe and Szegedy 2015), through which derivatives
    pass. What it would write into its running statistics goes nowhere in a stateless call.
    """
    layers = batchnorms(model) if batchnorm == "batch" else []
    for layer in layers:
        object.__setattr__(layer, "call", partial(_as_in_training, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def reestimated(network: FlatNetwork, parts: list[tf.Tensor], buffers: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    """Return the buffers with mean and unbiased variance of the inputs of each BatchNorm, layer by layer.

    As after one pass in training mode that keeps nothing of the running statistics before.
    """
    layers = batchnorms(network.model)
    momenta = [layer.momentum for layer in layers]
    counts: dict[str, int] = {}
    try:
        for layer in layers:
            layer.momentum = 0.0
            object.__setattr__(layer, "call", partial(_counting, layer, counts))
        buffers = network.state_after(parts, buffers, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            object.__delattr__(layer, "call")
    return buffers * tf.constant(network.correction(counts), buffers.dtype)


def _counting(layer: keras.Layer, counts: dict, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> tf.Tensor:
    counts[layer.moving_variance.path] = inputs.shape.num_elements() // inputs.shape[layer.axis]
    return _as_in_training(layer, inputs, training, mask)


def _as_in_training(layer: keras.Layer, inputs: tf.Tensor, training: Any = None, mask: Any = None) -> tf.Tensor:
    if inputs.shape.num_elements() == inputs.shape[layer.axis]:
        raise LossAtlasError(
            "batchnorm: 'batch' needs more than one value per channel, and a chunk of one sample has one; choose "
            "another batch_size or number of samples, so that the last chunk is larger"
        )
    return type(layer).call(layer, inputs, training=True, mask=mask)
