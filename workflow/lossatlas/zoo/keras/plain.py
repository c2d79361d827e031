"""LeNet, multilayer perceptron and VGG: one layer after the other."""

import math
from typing import Any

import keras
from keras import layers, ops

from lossatlas.zoo.keras.layers import batchnorm, conv, dense, flatten

POOL = 0  # in a plan: 2 x 2 max-pooling; other numbers are channels of a 3 x 3 convolution, in units of the width


def lenet(classes: int = 10, channels: int = 3) -> keras.Model:
    """Return LeNet with 62,006 parameters for 32 x 32 x 3 images and ten classes."""
    return keras.Sequential(
        [
            keras.Input((32, 32, channels)),
            conv(6, 5, 25 * channels, name="conv1"),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            conv(16, 5, 150, name="conv2"),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            *flatten(),
            dense(120, 400, name="fc1"),
            layers.ReLU(),
            dense(84, 120, name="fc2"),
            layers.ReLU(),
            dense(classes, 84, name="fc3"),
        ]
    )


def mlp(
    inputs: int = 3072, hidden: tuple[int, ...] = (64, 64), classes: int = 10, activation: str = "relu"
) -> keras.Model:
    """Return dense layers inputs -> hidden[0] -> ... -> classes; samples of any shape come flattened."""
    if activation not in ("relu", "tanh", "softplus", "gelu"):
        raise ValueError(f"activation {activation!r} is not one of relu, tanh, softplus, gelu")
    made: list = [keras.Input((inputs,))]
    for number, (before, after) in enumerate(zip([inputs, *hidden], hidden, strict=False), 1):
        function = exact_gelu if activation == "gelu" else activation
        made += [dense(after, before, name=f"fc{number}"), layers.Activation(function)]
    return keras.Sequential([*made, dense(classes, [inputs, *hidden][-1], name=f"fc{len(hidden) + 1}")])


@keras.saving.register_keras_serializable("lossatlas")
def exact_gelu(x: Any) -> Any:
    """Return x times the standard normal distribution function of x; Keras's own rounds the root of two to float32."""
    return 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5)))


def vgg9(classes: int = 10, width: int = 64, batchnorm: bool = True) -> keras.Model:
    """Return Li et al.'s VGG-9 (2018): seven convolutions and two dense layers, 2,789,706 parameters."""
    made = _convolutions([1, 1, POOL, 2, 2, POOL, 4, 4, 4, POOL], width, batchnorm)
    hidden = 4 * width
    made += [*flatten(), dense(hidden, hidden * 16, he=True, he_bias=True, name="fc1")]
    made += [*_normalised(batchnorm, "bn_fc1"), layers.ReLU()]
    return keras.Sequential([*made, dense(classes, hidden, he=True, he_bias=True, name="fc2")])


def vgg11(classes: int = 10, width: int = 64, batchnorm: bool = True) -> keras.Model:
    """Return VGG-11 (configuration A) with one dense layer, 9,231,114 parameters with BatchNorm."""
    made = _convolutions([1, POOL, 2, POOL, 4, 4, POOL, 8, 8, POOL, 8, 8, POOL], width, batchnorm)
    return keras.Sequential([*made, *flatten(), dense(classes, 8 * width, he=True, he_bias=True, name="fc1")])


def _convolutions(plan: list[int], width: int, batchnorm: bool) -> list:
    made: list = [keras.Input((32, 32, 3))]
    before, number = 3, 0
    for units in plan:
        if units == POOL:
            made.append(layers.MaxPooling2D(2))
            continue
        number += 1
        made.append(conv(units * width, 3, 9 * before, he=True, padding="same", name=f"conv{number}"))
        made += [*_normalised(batchnorm, f"bn{number}"), layers.ReLU()]
        before = units * width
    return made


def _normalised(wanted: bool, name: str) -> list[keras.Layer]:
    return [batchnorm(name=name)] if wanted else []
