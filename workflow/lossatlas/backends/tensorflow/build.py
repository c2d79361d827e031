"""From the config's ``model`` and ``loss`` to a Keras model and a function."""

import copy
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from lossatlas import rng, zoo
from lossatlas.config import imports
from lossatlas.problem.checks import LOSSES, built, check_averageable, check_loss, network_builder

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def build_module(spec: dict, seed: int) -> keras.Model:
    """Build the model of ``spec`` (keys ``name`` or ``import``, ``kwargs``) with seeded initial weights.

    Names that Keras gives to layers count from the beginning again, so that they are the same in every process.

    Raises:
        LossAtlasError: the builder fails or returns something else.
    """
    keras.utils.clear_session(free_memory=False)
    name, builder = network_builder(spec, zoo.keras_builder)
    keras.utils.set_random_seed(rng.torch_seed(seed, "initial weights") % 2**32)
    return built(builder, name, spec["kwargs"], keras.Model, "keras.Model")


def build_loss(spec: dict) -> Loss:
    """Return the loss of ``spec``: a function (outputs, targets) -> scalar mean over the batch.

    A user's function may return one value per sample instead; the mean is taken here.
    """
    if "import" not in spec:
        return dict(zip(LOSSES, BUILT_IN, strict=True))[spec["name"]]
    own = imports.load(spec["import"], spec["python_path"], "loss.import")
    return mean_over_samples(own, f"loss.import: {spec['import']!r}")


def as_loss(loss: str | Loss) -> Loss:
    """Return the loss that a notebook names, or its function with the mean taken.

    Raises:
        LossAtlasError: there is no built-in loss of that name.
    """
    check_loss(loss, LOSSES)
    return mean_over_samples(loss, "loss: the function") if callable(loss) else build_loss({"name": loss})


def as_metrics(metrics: dict[str, Callable]) -> dict[str, Loss]:
    """Return the metrics that a notebook gives, with the mean taken."""
    return {name: mean_over_samples(own, f"metrics: {name!r}") for name, own in metrics.items()}


def is_cross_entropy(loss: Loss) -> bool:
    """Return whether a loss is the built-in cross-entropy, of which a uniform guess among C classes has log C."""
    return loss is cross_entropy


def cross_entropy(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy of logits, whose last axis is the classes; targets are classes or their shares."""
    if targets.dtype.is_floating:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, outputs))
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs))


def mean_over_samples(own: Callable, who: str) -> Loss:
    """Return a user's function with the mean over samples taken, where it returns one value for each.

    Args:
        who: names the function in messages.
    """
    keras_loss = isinstance(own, keras.losses.Loss)  # those take the targets first

    def mean_loss(outputs: Any, targets: tf.Tensor) -> tf.Tensor:
        value = _in_precision_of(own, outputs)(targets, outputs) if keras_loss else own(outputs, targets)
        check_averageable(who, tuple(value.shape) if tf.is_tensor(value) else None, value)
        return tf.reduce_mean(value if value.dtype.is_floating else tf.cast(value, tf.float64))

    mean_loss.heeds_masks = keras_loss  # type: ignore[attr-defined]
    mean_loss.ignored = getattr(own, "ignore_class", None)  # type: ignore[attr-defined]
    return mean_loss


def sample_losses(loss: Loss, outputs: Any, targets: tf.Tensor) -> tf.Tensor:
    """Return the loss of each sample alone, (sample,)."""

    def alone(pair: tuple) -> tf.Tensor:
        return loss(*tf.nest.map_structure(lambda tensor: tensor[None], pair))

    return tf.vectorized_map(alone, (outputs, targets))


def _in_precision_of(own: keras.losses.Loss, outputs: Any) -> keras.losses.Loss:
    """Return a Keras loss that computes in the precision of the outputs, whichever it was made with."""
    dtype = tf.nest.flatten(outputs)[0].dtype.name
    if own.dtype == dtype:
        return own
    twin = copy.copy(own)
    twin._dtype_policy, twin._dtype = keras.DTypePolicy(dtype), dtype
    return twin


def _mse(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(outputs - tf.reshape(tf.cast(targets, outputs.dtype), tf.shape(outputs))))


BUILT_IN = cross_entropy, _mse
"""Losses that are known to be means over samples."""
