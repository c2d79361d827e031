"""Whether model, loss and data fit together, tried on a few samples before any work starts."""

from typing import Any

import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.build import BUILT_IN, Loss, cross_entropy, sample_losses
from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import (
    CHECKED,
    alike,
    check_mean,
    check_repeats,
    check_same_outputs,
    first_line,
    fitting,
)


def to_tensors(split: Split, network: FlatNetwork) -> tuple[tf.Tensor, tf.Tensor]:
    """Return inputs and targets on the network's device; floating-point ones in its precision.

    Datasets hold images as (sample, channel, height, width). Models that take (height, width, channel) get them so,
    those that take vectors get the images flattened as they are held. Several inputs are left as they are.
    """
    network.take_apart(split.parts)
    arrays = [_as_model_takes(np.asarray(split.inputs), network), np.asarray(split.targets)]
    tensors = []
    for array in arrays:
        floating = np.issubdtype(array.dtype, np.floating)
        with tf.device(network.device.name):
            tensors.append(tf.constant(array.astype(network.device.dtype) if floating else array))
    if not tensors[1].dtype.is_floating:
        tensors[1] = tf.cast(tensors[1], tf.int64)
    return tensors[0], tensors[1]


def _as_model_takes(images: np.ndarray, network: FlatNetwork) -> np.ndarray:
    wanted = getattr(network.model, "input_shape", None)
    if isinstance(wanted, tuple) and len(wanted) == 2 and images.ndim > 2:
        return images.reshape(len(images), -1)
    if images.ndim != 4:
        return images
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if isinstance(wanted, tuple) and len(wanted) == 4:
        return images if not _fits(turned, wanted) and _fits(images, wanted) else turned
    try:  # a model of the user's own that says nothing of its inputs
        _call(network, tf.constant(turned[:2].astype(network.device.dtype)))
        return turned
    except Exception:
        return images


def _fits(array: np.ndarray, wanted: tuple) -> bool:
    return all(size in (None, found) for size, found in zip(wanted[1:], array.shape[1:], strict=True))


def _call(network: FlatNetwork, inputs: tf.Tensor) -> tf.Tensor:
    theta, buffers = network.vector(network.parameters()), network.vector(network.buffers())
    return network.outputs(network.parts(theta), buffers, inputs)


def probe(
    network: FlatNetwork, loss: Loss, inputs: tf.Tensor, targets: tf.Tensor, metrics: dict[str, Loss] | None = None
) -> bool:
    """Try a few samples; return whether the last axis of outputs holds the scores of classes that are the targets.

    Raises:
        LossAtlasError: model and data do not fit; or the loss of some samples is not the mean of their own losses,
            for then neither is that of a dataset cut into chunks; or a metric is no such mean.
    """
    if loss is cross_entropy and not targets.dtype.is_floating and int(tf.reduce_min(targets)) < 0:
        raise LossAtlasError(f"loss: cross-entropy of the class {int(tf.reduce_min(targets))}; classes count from 0")
    few = np.linspace(0, len(inputs) - 1, min(CHECKED, len(inputs))).astype(int)
    every, all_targets = inputs, targets
    inputs, targets = tf.gather(inputs, few), tf.gather(targets, few)
    with fitting(*((tuple(part.shape), part.dtype.name) for part in (inputs, targets))):
        outputs = _call(network, inputs)
        if loss is cross_entropy and tf.is_tensor(outputs):
            _check_classes(outputs, targets)
        loss(outputs, targets)
    _check_rows(outputs, len(inputs))
    _check_model(network, inputs, outputs)
    _check_constants(network, loss, outputs, targets)
    _check_masks(network, loss, every)
    _check_mean("loss", loss, outputs, targets)
    _check_metrics(metrics or {}, outputs, targets)
    if loss not in BUILT_IN:
        _check_everywhere(loss, outputs, all_targets)
    if not tf.is_tensor(outputs):
        return False
    shape, scores = tuple(targets.shape), tuple(outputs.shape)
    return not targets.dtype.is_floating and len(scores) == len(shape) + 1 and scores[:-1] == shape and scores[-1] > 1


def _check_rows(outputs: Any, samples: int) -> None:
    """Refuse outputs, or parts of them, that do not hold one row for each sample."""
    for part in tf.nest.flatten(outputs):
        if not tf.is_tensor(part) or part.shape[:1] != (samples,):
            found = f"shape {tuple(part.shape)}" if tf.is_tensor(part) else type(part).__name__
            raise LossAtlasError(
                f"model: of {samples} samples it returned {found}; every output must hold a row of each"
            )


def _check_model(network: FlatNetwork, inputs: tf.Tensor, outputs: Any) -> None:
    """Refuse outputs that are random, or depend on the other samples of a batch."""
    half, whole = len(inputs) // 2, [part.numpy() for part in tf.nest.flatten(outputs)]

    def called(part: tf.Tensor) -> list[np.ndarray]:
        return [found.numpy() for found in tf.nest.flatten(_call(network, part))]

    check_same_outputs(whole, called(inputs))
    pairs = zip(called(inputs[:half]), called(inputs[half:]), strict=True) if half else ()
    if half and not all(alike(one, np.concatenate(two)) for one, two in zip(whole, pairs, strict=True)):
        raise LossAtlasError("model: the outputs of a sample depend on the others of its batch")


def _check_constants(network: FlatNetwork, loss: Loss, outputs: Any, targets: tf.Tensor) -> None:
    """Refuse losses that read the model's variables, which derivatives would take for constants."""
    with tf.GradientTape() as tape:
        loss(outputs, targets)
    read = {id(variable) for variable in tape.watched_variables()}
    for variable in network.model.trainable_variables:
        if id(variable.value) in read:
            raise LossAtlasError(
                f"loss: besides outputs and targets it reads the model's variable {variable.path!r}; a loss here is a "
                "mean over samples without penalties: leave it out, or give the layer a regularizer, which training "
                "heeds and nothing else"
            )


def _check_masks(network: FlatNetwork, loss: Loss, inputs: tf.Tensor) -> None:
    """Refuse Keras's losses where masks of padded positions, by whose number they weigh samples, reach the outputs."""
    if not getattr(loss, "heeds_masks", False) or not network.masked(inputs[:1]):
        return
    if any(network.padded(inputs[i : i + CHECKED]) for i in range(0, len(inputs), CHECKED)):
        raise LossAtlasError(
            "loss: the model's outputs carry a mask of padded positions (mask_zero, Masking), by which Keras's losses "
            "weigh samples by their lengths; import a function that returns one value per sample instead"
        )


def _check_everywhere(loss: Loss, outputs: Any, targets: tf.Tensor) -> None:
    """Refuse losses that are no mean over samples for some targets, of whatever outputs."""

    def both(outputs: Any, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return loss(outputs, targets), sample_losses(loss, outputs, targets)

    graph, size = tf.function(both), len(tf.nest.flatten(outputs)[0])
    for start in range(0, len(targets), size):
        group = targets[start : start + size]
        most = len(group)
        part = tf.nest.map_structure(lambda tensor, most=most: tensor[:most], outputs)
        try:
            whole, single = graph(part, group)
        except (tf.errors.OpError, TypeError, ValueError, AttributeError) as error:
            raise LossAtlasError(
                f"loss: TensorFlow cannot trace it ({first_line(error)}); write it with "
                "operations of TensorFlow or keras.ops"
            ) from error
        _check_mean_of("loss", whole, single.numpy())


def _check_classes(outputs: tf.Tensor, targets: tf.Tensor) -> None:
    """Refuse a cross-entropy of targets that are no classes, or of probabilities instead of logits."""
    shares = tuple(targets.shape) == tuple(outputs.shape) and np.allclose(tf.reduce_sum(targets, -1), 1)
    if targets.dtype.is_floating and not shares:
        raise LossAtlasError(
            f"loss: cross-entropy needs integer classes, the targets are {targets.dtype.name} of shape "
            f"{tuple(targets.shape[1:])} per sample; use loss: {{name: mse}} or your own"
        )
    if not targets.dtype.is_floating and int(tf.reduce_max(targets)) >= outputs.shape[-1]:
        raise LossAtlasError(
            f"loss: cross-entropy of the class {int(tf.reduce_max(targets))}, but the model has {outputs.shape[-1]} "
            "outputs; classes count from 0"
        )
    scores = outputs.numpy()
    if scores.shape[-1] > 1 and (scores >= 0).all() and np.allclose(scores.sum(-1), 1, atol=1e-3):
        raise LossAtlasError(
            "loss: cross-entropy takes logits, but the model's outputs are probabilities (a softmax at its end?); "
            "leave it out, or import a loss of your own"
        )


def _check_metrics(metrics: dict[str, Loss], outputs: tf.Tensor, targets: tf.Tensor) -> None:
    """Refuse metrics that fail, draw random numbers or are no mean over samples."""
    for name, metric in metrics.items():
        try:
            _check_mean(f"metrics.{name}", metric, outputs, targets)
        except (tf.errors.OpError, TypeError, ValueError, IndexError) as error:
            said = f"{first_line(error)}"
            shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise LossAtlasError(f"metrics.{name}: on {shapes} it gave {said}") from error


def _check_mean(who: str, loss: Loss, outputs: tf.Tensor, targets: tf.Tensor) -> None:
    """Refuse losses and metrics that draw random numbers or are no mean over samples."""
    value = loss(outputs, targets)
    check_repeats(who, float(value), float(loss(outputs, targets)))
    places = range(len(targets))
    alone = [tf.nest.map_structure(lambda tensor, i=i: tensor[i : i + 1], (outputs, targets)) for i in places]
    _check_mean_of(who, value, np.array([float(loss(*pair)) for pair in alone]))


def _check_mean_of(who: str, whole: tf.Tensor, single: np.ndarray) -> None:
    """Refuse a mean that is not that of the samples' own."""
    tolerance = 1e3 * np.finfo(whole.dtype.as_numpy_dtype).eps * float(np.abs(single).max())
    check_mean(who, float(whole), single.mean(), len(single), tolerance)
