"""A Keras model seen as one flat parameter vector."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.device import Device
from lossatlas.backends.tensorflow.kinds import filter_axis, kind, owners, short_name
from lossatlas.backends.tensorflow.moments import exact_moments
from lossatlas.data import Part
from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout, ParameterSlot, is_variance
from lossatlas.io.trajectory import Recording


class FlatNetwork:
    """A Keras model whose trainable variables are read and written as one flat vector theta.

    The order of theta is that of ``model.trainable_variables``. Variables of layers that are not trained (``frozen``)
    and floating-point state such as moving statistics (``buffers``) are flat vectors likewise. Only ``load`` and an
    optimiser change the model; ``outputs`` takes all numbers as arguments.

    Raises:
        LossAtlasError: the model is no Keras model, is not built, computes in another precision than that of the
            device or in two, or has nothing to train.
    """

    def __init__(self, model: keras.Model, device: Device):
        self.model, self.device = model, device
        _check(model, device.dtype)
        own = owners(model)
        self._trainable = list(model.trainable_variables)
        self.layout = _layout(model, own)
        trained = {id(v) for v in self._trainable}
        rest = [v for v in model.weights if id(v) not in trained and v.dtype == device.dtype]
        state = {id(v) for layer, v in own.values() if any(v is w for w in layer._non_trainable_variables)}
        self._buffers = [v for v in rest if id(v) in state]
        self._frozen = [v for v in rest if id(v) not in state]
        self._buffer_shapes = [tuple(v.shape) for v in self._buffers]
        self._parts: tuple[Part, ...] = ()

    def recording(self, iterations: np.ndarray, steps_per_epoch: float | None = None) -> Recording:
        """Describe a trajectory of this network."""
        return Recording(
            self.layout,
            iterations,
            self.device.dtype,
            steps_per_epoch,
            [(short_name(v, self.model), tuple(v.shape)) for v in self._buffers],
            self.frozen(),
            [(short_name(v, self.model), tuple(v.shape)) for v in self._frozen],
        )

    def parameters(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of theta, written into ``out`` where it is given."""
        return self._gather(self._trainable, out)

    def buffers(self) -> np.ndarray:
        """Return a copy of all floating-point state, flat."""
        return self._gather(self._buffers)

    def frozen(self) -> np.ndarray:
        """Return a copy of all parameters that are not trained, flat."""
        return self._gather(self._frozen)

    def arranged(self, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return theta, buffers and frozen parameters of weights in the order of ``model.weights``, all flat."""
        known = {id(v): np.reshape(one, -1) for v, one in zip(self.model.weights, weights, strict=True)}
        own = self._trainable, self._buffers, self._frozen
        parts = ([np.zeros(0), *(known[id(v)] for v in variables)] for variables in own)
        theta, buffers, frozen = (np.concatenate(part).astype(self.device.dtype) for part in parts)
        return theta, buffers, frozen

    def load(
        self,
        theta: np.ndarray | None = None,
        buffers: np.ndarray | None = None,
        frozen: np.ndarray | None = None,
    ) -> None:
        """Write any of theta, buffers and frozen parameters into the model."""
        for variables, flat in ((self._trainable, theta), (self._buffers, buffers), (self._frozen, frozen)):
            if flat is not None:
                _scatter(variables, np.asarray(flat))

    def take_apart(self, parts: tuple[Part, ...]) -> None:
        """From now on give the model as several tensors what it is given side by side, (sample, number)."""
        self._parts = parts

    def given(self, inputs: tf.Tensor) -> tf.Tensor | list[tf.Tensor] | dict[str, tf.Tensor]:
        """Return inputs as the model takes them: one tensor, a list, or a dict by the names of ``keras.Input``."""
        if not self._parts:
            return inputs
        columns = tf.split(inputs, [math.prod(part.shape) for part in self._parts], 1)
        tensors = []
        for part, tensor in zip(self._parts, columns, strict=True):
            kind = np.dtype(part.dtype).kind
            tensor = tensor if kind == "f" else tf.cast(tensor, tf.bool if kind == "b" else tf.int64)
            tensors.append(tf.reshape(tensor, (-1, *part.shape)))
        names = [part.name for part in self._parts]
        return dict(zip(names, tensors, strict=True)) if names[0] else tensors

    def vector(self, values: np.ndarray) -> tf.Tensor:
        """Return values as a tensor of the network's precision on its device."""
        with tf.device(self.device.name):
            return tf.convert_to_tensor(np.ascontiguousarray(values, self.device.dtype))

    def parts(self, theta: tf.Tensor) -> list[tf.Tensor]:
        """Return the parameters in their shapes, cut out of theta."""
        return cut(theta, [slot.shape for slot in self.layout])

    def outputs(self, parts: Sequence[tf.Tensor], buffers: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """Return the model's outputs in inference mode, a pure function of its parameters and buffers.

        Without the masks of padded positions that Keras hands on with them: see ``checks``.
        """
        return tf.nest.map_structure(
            lambda tensor: tf.identity(tensor) if hasattr(tensor, "_keras_mask") else tensor,
            self._call(parts, buffers, inputs)[0],
        )

    def masked(self, inputs: tf.Tensor) -> bool:
        """Return whether outputs carry masks of padded positions."""
        return bool(self._masks(inputs))

    def padded(self, inputs: tf.Tensor) -> bool:
        """Return whether the outputs of some samples, at the model's own parameters, are masked in part."""
        return not all(bool(tf.reduce_all(mask)) for mask in self._masks(inputs))

    def _masks(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        theta, buffers = self.vector(self.parameters()), self.vector(self.buffers())
        outputs = tf.nest.flatten(self._call(self.parts(theta), buffers, inputs)[0])
        return [mask for mask in (getattr(output, "_keras_mask", None) for output in outputs) if mask is not None]

    def _call(self, parts: Sequence[tf.Tensor], buffers: tf.Tensor, inputs: tf.Tensor) -> tuple:
        """Return outputs and state that is not trained."""
        given = dict(zip(map(id, self._buffers), cut(buffers, self._buffer_shapes), strict=True))
        others = [given.get(id(v), v.value) for v in self.model.non_trainable_variables]
        with exact_moments():
            return self.model.stateless_call(list(parts), others, self.given(inputs), **mode(self.model, False))

    def variances(self) -> np.ndarray:
        """Return which of the flat buffers are running variances, as booleans."""
        named = [np.full(math.prod(v.shape), is_variance(v.path)) for v in self._buffers]
        return np.concatenate(named) if named else np.zeros(0, bool)

    def correction(self, counts: dict[str, int]) -> np.ndarray:
        """Return what makes biased variances unbiased, by the path of a variance and its number of values; else 1."""
        factors = []
        for variable in self._buffers:
            count = counts.get(variable.path)
            factors.append(np.full(math.prod(variable.shape), count / (count - 1) if count else 1.0))
        return np.concatenate(factors)

    def state_after(self, parts: Sequence[tf.Tensor], buffers: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """Return the buffers as the model would leave them, which depends on how its layers are called."""
        _, others = self._call(parts, buffers, inputs)
        left = dict(zip(map(id, self.model.non_trainable_variables), others, strict=True))
        return join([left[id(v)] for v in self._buffers])

    def _gather(self, variables: list, out: np.ndarray | None = None) -> np.ndarray:
        if not variables:
            return np.zeros(0, self.device.dtype)
        return np.concatenate([to_numpy(v.value).reshape(-1) for v in variables], out=out)


def mode(model: keras.Model, training: bool) -> dict[str, bool]:
    """Return the argument that tells a model whether it is trained; own ones that take none are called without."""
    return {"training": training} if model._call_has_training_arg else {}


def to_numpy(tensor: tf.Tensor | tf.Variable) -> np.ndarray:
    """Return a tensor's numbers, on a CPU without copying them: read only, and to be read before they change."""
    tensor = tf.convert_to_tensor(tensor)
    if tensor.device.endswith("CPU:0"):
        return np.asarray(memoryview(tensor))
    return tensor.numpy()


def cut(flat: tf.Tensor, shapes: list[tuple[int, ...]]) -> list[tf.Tensor]:
    """Return consecutive parts of a vector in the given shapes."""
    parts = tf.split(flat, list(map(math.prod, shapes))) if shapes else []
    return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def join(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return tensors as one vector."""
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def _scatter(variables: list, flat: np.ndarray) -> None:
    needed = sum(math.prod(v.shape) for v in variables)
    if len(flat) != needed:
        raise LossAtlasError(f"the network holds {needed} such numbers, {len(flat)} were given")
    start = 0
    for variable in variables:
        stop = start + math.prod(variable.shape)
        variable.assign(flat[start:stop].reshape(variable.shape))
        start = stop


def _check(model: keras.Model, dtype: str) -> None:
    if not isinstance(model, keras.Model):
        raise LossAtlasError(f"model: expected a keras.Model, got {type(model).__name__}")
    for layer in model._flatten_layers():
        policy = layer.dtype_policy
        if policy.compute_dtype != policy.variable_dtype:
            raise LossAtlasError(
                f"model: layer {layer.name!r} has the mixed precision policy {policy.name!r}; derivatives of second "
                "order need one precision: build the model without a policy, and choose it by `dtype`"
            )
    if not model.built or not model.weights:
        raise LossAtlasError(
            "model: it has no variables yet; begin it with keras.Input(shape), or call it once on a batch"
        )
    if not model.trainable_variables:
        raise LossAtlasError("model: no variable is trainable, so there is no loss surface")
    for variable in model.trainable_variables:
        if variable.dtype != dtype:
            raise LossAtlasError(
                f"model: {variable.path!r} is {variable.dtype}, the run's dtype is {dtype}; build layers without a "
                "dtype of their own"
            )


def _layout(model: keras.Model, own: dict) -> ParameterLayout:
    slots, offset, names = [], 0, set()
    for variable in model.trainable_variables:
        name, shape, layer = short_name(variable, model), tuple(variable.shape), own[id(variable)][0]
        if name in names:
            raise LossAtlasError(f"model: two variables are called {name!r}; give their layers different names")
        names.add(name)
        found = kind(layer, variable, len(shape))
        slots.append(ParameterSlot(name, shape, offset, found, filter_axis(layer, variable, found, shape)))
        offset += math.prod(shape)
    return ParameterLayout(tuple(slots))
