"""What notebooks have at hand, as the drivers take it; and jobs that leave no files."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from lossatlas import backends, config
from lossatlas.data import Subset, read
from lossatlas.drivers import own_metrics
from lossatlas.drivers.base import Job, Order
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import RowWriter, Trajectory
from lossatlas.parallel import Timing, World
from lossatlas.problem import Problem


def backend_of(model: Any) -> ModuleType:
    """Return the backend of a model: TensorFlow for Keras models, else PyTorch, of which Keras models may be modules.

    Raises:
        LossAtlasError: Keras computes with a framework that has no backend here.
    """
    keras = sys.modules.get("keras")  # who has a Keras model has imported it
    is_keras = keras is not None and isinstance(model, keras.Model) and keras.backend.backend() != "torch"
    return backends.backend("tensorflow" if is_keras else "torch")


def problems_of(
    backend: ModuleType,
    model: Any,
    loss: Any,
    data: Any,
    test: Any,
    batch_size: int,
    dtype: str | None,
    metrics: dict[str, Callable] | None,
    where: str,
    batchnorm: str = "frozen",
) -> tuple[Any, dict[str, Problem], dict[str, Subset]]:
    """Return the network, and problems and subsets by split."""
    if not isinstance(metrics or {}, dict) or not all(map(callable, (metrics or {}).values())):
        raise LossAtlasError(f"metrics: {metrics!r} is no dict of functions by name, such as {{'top5': top5}}")
    own_metrics.check(metrics or {}, "metrics")
    config.check({"batch_size": batch_size}, "evaluation", where)
    splits = {"train": read(data, "data").whole()} | ({"test": read(test, "test").whole()} if test is not None else {})
    subsets = {name: Subset(split, np.arange(len(split)), split.digest, False) for name, split in splits.items()}
    network = backend.FlatNetwork(model, backend.device_of(model, dtype))
    about = network, backend.as_loss(loss)
    how = batch_size, batchnorm, backend.as_metrics(metrics or {})
    return network, {name: backend.Problem(*about, split, *how) for name, split in splits.items()}, subsets


def recorded(
    backend: ModuleType, folder: Path, model: Any, path: Any, network: Any, where: str = "path[{}]"
) -> Trajectory:
    """Return the trajectory at a path, or write one of checkpoints and then the model itself.

    Args:
        path: a recorder's file, or checkpoints in order.
        where: names a checkpoint in messages.

    Raises:
        LossAtlasError: a checkpoint is none of this model, or the file is of another one.
    """
    if isinstance(path, str | os.PathLike):
        return _opened(Path(path), network)
    path = list(path)
    (folder / ".stores").mkdir()
    reader, link = backend.FlatNetwork(model, network.device), folder / "trajectory.zarr"
    recording = reader.recording(np.arange(len(path) + 1))
    made = store.create(link, folder, store.Fingerprint("trajectory", {}), recording.build)
    writer = RowWriter(made)
    for number, checkpoint in enumerate([*path, model]):
        theta, buffers = backend.read_weights(reader, checkpoint, where.format(number))
        writer.append(parameters=theta, buffers=buffers, batch_loss=np.nan, learning_rate=np.nan)
    writer.flush()
    made.finish({})
    return Trajectory(made.path)


def _opened(path: Path, network: Any) -> Trajectory:
    trajectory = Trajectory(path)
    if trajectory.layout != network.layout:
        raise LossAtlasError(f"path: {path}: was recorded from a network with other parameters than the model's")
    if not np.array_equal(trajectory.frozen, network.frozen()):
        raise LossAtlasError(f"path: {path}: its parameters that are not trained differ from the model's")
    return trajectory


def computed(job: Job, folder: Path) -> xr.Dataset:
    """Make the store of a job in a temporary folder, and return its contents in memory."""
    (folder / ".stores").mkdir(exist_ok=True)
    order = Order(folder / f"{job.kind}.zarr", folder, job.kind)
    result = job.create(order, job.plan())
    job.compute(result, order, World(), Timing())
    job.finish(result, {})
    dataset = xr.open_zarr(result.path, chunks=None).load()
    for key in ("fingerprint", "provenance", "content", "chunk_files", "attempts", "finished", "subset_stratified"):
        dataset.attrs.pop(key, None)  # these speak of stores on disk
    for key in ("samples", "subset_digest", "nonfinite_points", "grid", "second_order", "agreement"):
        if isinstance(dataset.attrs.get(key), dict):  # NetCDF holds none
            dataset.attrs |= {f"{key}_{name}": value for name, value in dataset.attrs.pop(key).items()}
    dataset.attrs = {key: value for key, value in dataset.attrs.items() if value not in (None, [])}
    return dataset
