"""A small convolutional network for images of ten kinds of clothing."""

from lossatlas.data import load_dataset
from torch import nn


def build() -> nn.Module:
    """Return the network, with random weights."""
    layers = [nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 5 * 5, 10))


def data() -> dict:
    """Return images (sample, 3, 32, 32) and their classes."""
    images = load_dataset({"name": "fashion-mnist-mini"})
    return {name: (split.inputs, split.targets) for name, split in (("train", images.train), ("test", images.test))}
