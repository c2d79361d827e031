"""LossAtlas: the loss surface of a training run as data, pictures and video."""

__version__ = "0.1.0"
