"""A small convolutional network for images of ten kinds of clothing."""

import keras
from lossatlas.data import load_dataset


def build() -> keras.Model:
    """Return the network, with random weights; it ends in logits."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu", name="first"),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu", name="second"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="last"),
        ]
    )


def data() -> dict:
    """Return images (sample, 3, 32, 32), which LossAtlas turns for networks that take (32, 32, 3), and classes."""
    images = load_dataset({"name": "fashion-mnist-mini"})
    return {name: (split.inputs, split.targets) for name, split in (("train", images.train), ("test", images.test))}
