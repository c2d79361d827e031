"""ResNets for 32 x 32 images (He et al. 2016, section 4.2), with shortcuts and without (Li et al. 2018)."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from lossatlas.zoo.keras.layers import batchnorm, conv, dense


def resnet(depth: int, shortcut: bool = True) -> Callable[..., keras.Model]:
    """Return the builder of ResNet-``depth`` (6 n + 2), of as many parameters with shortcuts as without."""

    def build(classes: int = 10, width: int = 16) -> keras.Model:
        inputs = keras.Input((32, 32, 3))
        x = _conv(inputs, width, 1, "conv")
        x = layers.ReLU()(batchnorm(name="bn")(x))
        for number in range(3 * ((depth - 2) // 6)):
            stage, place = divmod(number, (depth - 2) // 6)
            x = _block(x, width * 2**stage, 2 if stage > 0 and place == 0 else 1, shortcut, f"block{number}")
        outputs = dense(classes, x.shape[-1], he=True, name="linear")(ops.mean(x, (1, 2)))
        return keras.Model(inputs, outputs)

    return build


def _block(x: Any, channels: int, stride: int, shortcut: bool, name: str) -> Any:
    """Two 3 x 3 convolutions with BatchNorm; the shortcut pads new channels with zeros (option A)."""
    out = layers.ReLU()(batchnorm(name=f"{name}_bn1")(_conv(x, channels, stride, f"{name}_conv1")))
    out = batchnorm(name=f"{name}_bn2")(_conv(out, channels, 1, f"{name}_conv2"))
    if shortcut:
        new = channels - x.shape[-1]
        same = x[:, ::stride, ::stride] if stride > 1 else x
        padding = [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)]
        out = layers.add([out, ops.pad(same, padding) if new else same])
    return layers.ReLU()(out)


def _conv(x: Any, channels: int, stride: int, name: str) -> Any:
    """A 3 x 3 convolution without bias, padded by one pixel on every side; Keras pads one side only at stride 2."""
    fan_in = 9 * x.shape[-1]
    if stride == 1:
        return conv(channels, 3, fan_in, he=True, padding="same", use_bias=False, name=name)(x)
    return conv(channels, 3, fan_in, he=True, strides=stride, use_bias=False, name=name)(layers.ZeroPadding2D(1)(x))
