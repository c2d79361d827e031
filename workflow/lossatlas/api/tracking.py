"""Hessian eigenvectors followed along a path of a model at hand."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossatlas import config
from lossatlas.api.inputs import backend_of, computed, problems_of, recorded
from lossatlas.config import models
from lossatlas.drivers.tracking import Tracking
from lossatlas.krylov import Eigenpairs
from lossatlas.parallel.progress import Progress
from lossatlas.results import Result

TRACKING = models.Tracking()
"""The config's defaults, which hold here too."""


def track(
    model: Any,
    loss: Any,
    data: Any,
    path: Sequence[Any] | str | os.PathLike,
    *,
    largest: int = TRACKING.largest,
    smallest: int = TRACKING.smallest,
    stride: int = TRACKING.stride,
    operator: str = TRACKING.operator,
    parameters: Sequence[str] = tuple(TRACKING.parameters),
    tolerance: float = TRACKING.tolerance,
    max_products: int = TRACKING.max_products,
    seed: int = TRACKING.seed,
    batch_size: int = TRACKING.batch_size,
    batchnorm: str = TRACKING.batchnorm,
    dtype: str | None = None,
    memory_gb: float = TRACKING.memory_gb,
    strategy: str = TRACKING.strategy,
) -> Result:
    """Follow eigenvectors of the Hessian along a path, and how gradient and step lie in the space that they span.

    The dataset is what ``tracking.zarr`` of the workflow holds: ``eigenvalue(iteration, pair)``, ``matched``, the pair
    before that each one continues, ``overlap``, ``gradient_share`` and ``step_share``.

    Args:
        model, loss, data, dtype: as for ``hessian``.
        path: earlier checkpoints in order, of which the model itself is the last: models, state dicts or, of Keras,
            lists of weights. Or a recorder's ``trajectory.zarr``, without the model itself.
        largest, smallest: how many eigenvectors are followed at each end of the spectrum.
        stride: every n-th point of the path, and the last.
        tolerance, max_products, seed: as for ``Hessian.eigenpairs``, of each search.
        operator, parameters, batch_size, batchnorm, memory_gb, strategy: as for ``hessian``.

    Raises:
        LossAtlasError: as for ``hessian``, or a checkpoint is none of this model.
    """
    matrix = {"operator": operator, "parameters": list(parameters), "memory_gb": memory_gb, "strategy": strategy}
    search = {"largest": largest, "smallest": smallest, "stride": stride, "tolerance": tolerance}
    given = {**matrix, **search, "max_products": max_products, "seed": seed, "batch_size": batch_size}
    spec = config.check({**given, "batchnorm": batchnorm}, "tracking", "track").model_dump()
    backend = backend_of(model)
    with tempfile.TemporaryDirectory() as folder, backend.own_modes():
        about = model, loss, data, None, batch_size, dtype, None, "track", batchnorm
        network, problems, subsets = problems_of(backend, *about)
        trajectory = recorded(backend, Path(folder), model, path, network)
        rows = len(trajectory.every(stride))
        at = problems["train"], subsets["train"], trajectory
        # In one unit each search but the first starts from the eigenvectors before.
        job = _Shown({"tracking": {**spec, "per_unit": rows}}, *at, progress=Progress("track", rows, unit="points"))
        return Result(computed(job, Path(folder)), "tracking")


@dataclass
class _Shown(Tracking):
    """Shows how many points of the path are done."""

    progress: Progress = field(kw_only=True)

    def search(self, number: int, before: Eigenpairs | None = None) -> Eigenpairs:
        pairs = super().search(number, before)
        self.progress.update(number + 1)
        if number + 1 == self.progress.total:
            self.progress.close()
        return pairs
