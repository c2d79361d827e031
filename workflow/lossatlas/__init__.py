"""LossAtlas: the loss surface of a training run as data, pictures and video.

In notebooks ``lossatlas.hessian``, ``lossatlas.plane`` and ``lossatlas.curve`` of (model, loss, data) need neither
Snakemake nor MPI; see ``lossatlas.api``.
"""

from typing import Any

from lossatlas.errors import LossAtlasError

__version__ = "0.1.0"
__all__ = ["LossAtlasError", "curve", "hessian", "plane"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: a dry run imports this package and must not import a deep-learning framework.
    if name in __all__:
        from lossatlas import api

        return getattr(api, name)
    raise AttributeError(f"module 'lossatlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
