"""One-time set-up of TensorFlow in a process: device, threads, determinism."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import keras
import tensorflow as tf

from lossatlas.backends.tensorflow.environment import quiet
from lossatlas.errors import LossAtlasError
from lossatlas.parallel import limit_threads


@dataclass(frozen=True)
class Device:
    """Where and in which precision tensors live: ``name`` is TensorFlow's, such as ``CPU:0``."""

    name: str
    dtype: str

    @property
    def description(self) -> str:
        """The device in words, for the store."""
        if self.name.startswith("CPU"):
            return "cpu"
        found = tf.config.list_physical_devices("GPU")
        visible = tf.config.get_visible_devices("GPU") or found
        return tf.config.experimental.get_device_details(visible[0]).get("device_name", "GPU")


def set_up(device: str, dtype: str, threads: int, local_rank: int = 0) -> Device:
    """Choose device, precision and threads, and ask for reproducible arithmetic: no TF32, deterministic kernels.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``. GPUs are dealt to ranks by local rank; their memory is taken as needed.
        dtype: ``float32`` or ``float64``; Keras builds models in it from now on.

    Raises:
        LossAtlasError: ``cuda`` on a machine without a usable GPU.
    """
    _set_threads(threads)
    limit_threads(threads)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()
    with nullcontext() if device == "cuda" else quiet():
        gpus = tf.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise LossAtlasError("device: 'cuda', but TensorFlow finds no GPU here; use 'auto' or 'cpu'")
    own = [] if device == "cpu" or not gpus else [gpus[local_rank % len(gpus)]]
    try:
        tf.config.set_visible_devices(own, "GPU")
        for gpu in own:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise LossAtlasError(f"device: TensorFlow had already started when its GPU was chosen ({error})") from error
    return Device("GPU:0" if own else "CPU:0", dtype)


def _set_threads(threads: int) -> None:
    """Hold TensorFlow to a number of threads; operations follow one another, so that memory can be foreseen.

    Raises:
        LossAtlasError: TensorFlow has already started with another number.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        if tf.config.threading.get_intra_op_parallelism_threads() != threads:
            raise LossAtlasError(
                f"threads: TensorFlow had already started when {threads} thread(s) were asked for; own modules must "
                "not compute while they are imported"
            ) from error


def device_of(model: keras.Model, dtype: str | None = None) -> Device:
    """Return the first GPU that TensorFlow sees, else the CPU, with the model's precision.

    Raises:
        LossAtlasError: ``model`` is no Keras model or has no parameters, or ``dtype`` is not that of its parameters.
    """
    if not isinstance(model, keras.Model):
        raise LossAtlasError(f"model: expected a keras.Model, got {type(model).__name__}")
    if not model.weights:
        raise LossAtlasError("model: it has no parameters, so there is no loss surface")
    own = str(model.weights[0].dtype)
    if dtype not in (None, own):
        raise LossAtlasError(f"dtype: {dtype!r}, but the model was built in {own}; build it anew in the other one")
    return Device("GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0", own)


@contextmanager
def own_modes() -> Iterator[None]:
    """Switch TF32 off for a while, in a process that is not ours alone."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
