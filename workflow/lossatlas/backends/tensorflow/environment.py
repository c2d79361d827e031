"""What TensorFlow and Keras read from the environment when they are imported."""

import os
import sys

from lossatlas.errors import LossAtlasError

chosen = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if chosen == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # not what it found on the machine


def check_keras() -> None:
    """Refuse a Keras that computes with another framework, or an older Keras.

    Raises:
        LossAtlasError: the message says how to choose TensorFlow.
    """
    import keras

    if int(keras.__version__.split(".")[0]) < 3:
        raise LossAtlasError(f"backend: 'tensorflow' needs Keras 3, this is {keras.__version__}")
    if keras.backend.backend() != "tensorflow":
        raise LossAtlasError(
            f"backend: 'tensorflow', but Keras runs on {keras.backend.backend()!r} in this process "
            f"(KERAS_BACKEND={chosen}); set KERAS_BACKEND=tensorflow"
        )


if "keras" in sys.modules or chosen != "tensorflow":
    check_keras()
