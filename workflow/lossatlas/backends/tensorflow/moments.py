"""Mean and variance with all their derivatives.

``tf.nn.moments`` takes the mean inside the variance for a constant. Its first derivative is right all the same, and the
second is wrong: without an error, in every layer that normalises by statistics of its inputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf


@contextmanager
def exact_moments() -> Iterator[None]:
    """Let Keras's layers compute moments that can be differentiated more than once, for a while."""
    before = tf.nn.moments
    tf.nn.moments = _moments
    try:
        yield
    finally:
        tf.nn.moments = before


def _moments(x: tf.Tensor, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None) -> tuple:
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return mean if keepdims else tf.squeeze(mean, axes), variance
