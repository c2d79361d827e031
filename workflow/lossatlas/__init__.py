"""LossAtlas: the loss surface of a training run as data, pictures and video.

In notebooks ``lossatlas.hessian``, ``plane``, ``curve`` and ``track`` of (model, loss, data) need neither Snakemake nor
MPI and return objects that show themselves (``lossatlas.results``); ``lossatlas.open`` opens what they saved, and the
workflow's stores. ``lossatlas.record(model, path)`` records a training loop of your own.
"""

from importlib import import_module
from typing import Any

from lossatlas.errors import LossAtlasError

__version__ = "0.1.0"
__all__ = ["LossAtlasError", "curve", "hessian", "plane", "record", "sample", "track"]

_HOMES = {
    "KerasRecorder": "backends.tensorflow.recorder",
    "LightningRecorder": "backends.torch.lightning",
    "TrainerRecorder": "backends.torch.transformers",
    "curve": "api",
    "hessian": "api",
    "open": "results",
    "plane": "api",
    "record": "backends.torch.recorder",
    "sample": "data",
    "track": "api",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: a dry run imports this package and must not import a deep-learning framework.
    if name in _HOMES:
        try:
            return getattr(import_module(f"lossatlas.{_HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            raise LossAtlasError(f"{name}: needs the package {package!r}; pip install {package}") from error
    raise AttributeError(f"module 'lossatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["LossAtlasError", *_HOMES, "__version__"]
