"""Layers with PyTorch's defaults."""

import math
from typing import Any

import keras
from keras import initializers, layers


def conv(filters: int, size: int, fan_in: int, he: bool = False, **kwargs: Any) -> keras.Layer:
    """Return a convolution whose weights begin as PyTorch's, or as He et al.'s (2015) with ``he``."""
    return layers.Conv2D(filters, size, kernel_initializer=_kernel(he), bias_initializer=_bias(fan_in, he), **kwargs)


def dense(units: int, fan_in: int, he: bool = False, he_bias: bool = False, **kwargs: Any) -> keras.Layer:
    """Return a dense layer whose weights begin as PyTorch's, or as He et al.'s (2015) with ``he``."""
    bias = _bias(fan_in, he_bias)
    return layers.Dense(units, kernel_initializer=_kernel(he), bias_initializer=bias, **kwargs)


def batchnorm(**kwargs: Any) -> keras.Layer:
    """Return a BatchNorm over channels with PyTorch's epsilon and momentum, which Keras counts from the other end."""
    return layers.BatchNormalization(epsilon=1e-5, momentum=0.9, **kwargs)


def flatten() -> list[keras.Layer]:
    """Return layers that flatten images channel by channel."""
    return [layers.Permute((3, 1, 2)), layers.Flatten()]


def _kernel(he: bool) -> initializers.Initializer:
    if he:
        return initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    return initializers.VarianceScaling(1 / 3, "fan_in", "uniform")  # within 1 / sqrt(fan_in)


def _bias(fan_in: int, zero: bool) -> initializers.Initializer:
    bound = 1 / math.sqrt(fan_in)
    return initializers.Zeros() if zero else initializers.RandomUniform(-bound, bound)
