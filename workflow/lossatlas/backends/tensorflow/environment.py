"""What TensorFlow and Keras read from the environment when they are imported."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lossatlas.errors import LossAtlasError

chosen = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if chosen == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # not what it found on the machine


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what TensorFlow's libraries write while they start, before they obey a level of logging, off the screen."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_keras() -> None:
    """Refuse a Keras that computes with another framework, or an older Keras.

    Raises:
        LossAtlasError: the message says how to choose TensorFlow.
    """
    if chosen != "tensorflow":
        raise LossAtlasError(f"backend: 'tensorflow', but KERAS_BACKEND={chosen}; set KERAS_BACKEND=tensorflow")
    with quiet():
        import keras

    if int(keras.__version__.split(".")[0]) < 3:
        raise LossAtlasError(f"backend: 'tensorflow' needs Keras 3, this is {keras.__version__}")
    if keras.backend.backend() != "tensorflow":
        raise LossAtlasError(
            f"backend: 'tensorflow', but Keras runs on {keras.backend.backend()!r} in this process; "
            "set KERAS_BACKEND=tensorflow before it is imported"
        )


check_keras()
