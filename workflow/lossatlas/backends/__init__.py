"""One folder per deep-learning framework; nothing else in the package knows one."""

from types import ModuleType


def backend(name: str) -> ModuleType:
    """Return the module of a backend: ``build_network``, ``Trainer``, ``problems``, ``set_up``."""
    assert name == "torch", name
    from lossatlas.backends import torch

    return torch
