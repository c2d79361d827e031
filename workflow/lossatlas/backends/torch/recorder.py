"""Recording of a user's own training loop as a trajectory."""

import os
from pathlib import Path

import numpy as np
from torch import distributed, nn

from lossatlas.backends.torch.device import device_of
from lossatlas.backends.torch.network import ModuleTensors
from lossatlas.errors import LossAtlasError
from lossatlas.io.growing import Row
from lossatlas.io.tape import Tape


def record(
    model: nn.Module,
    path: str | os.PathLike,
    every: int = 1,
    *,
    start: int | None = None,
    steps_per_epoch: float | None = None,
    precision: str | None = None,
) -> "TorchTape":
    """Record a training loop of your own into ``path``, which a run reads as ``checkpoints: {files: <path>}``.

    ::

        with lossatlas.record(model, "mine/trajectory.zarr", every=5) as tape:
            for inputs, targets in batches:
                loss = ...
                loss.backward()
                optimizer.step()
                tape.step(loss)

    Only parameters that require a gradient when recording begins are written for each row, frozen ones once, buffers
    (running statistics) with each row. Writing happens in the background. Where several processes train
    (``torch.distributed``) all of them record and the first one writes.

    Args:
        model: as it is trained; wrapped for several processes or compiled, what is inside is recorded.
        path: the store, ``.../trajectory.zarr``. A training that was recorded there is continued.
        every: iterations from one row to the next; the first and the last are always recorded.
        start: the iteration at which training goes on, such as that of your checkpoint: rows from it on are replaced,
            0 begins anew. Left out it goes on at the last recorded iteration, ``tape.iteration``, where the model must
            be what was recorded.
        steps_per_epoch: iterations of a pass over the training set, where figures shall count passes.
        precision: ``"float16"`` or ``"bfloat16"`` keeps rows as differences of this precision from every 32nd row,
            which is whole: about half the disk. ``parameters_error`` of the store is the relative error of each row.

    Raises:
        LossAtlasError: an argument is wrong; or, when ``with`` is entered, something else lies at the path, such as
            the recording of another model.
    """
    return TorchTape(model, path, every, start, steps_per_epoch, precision)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside of what compiles it or shares it between processes."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


class TorchTape(Tape):
    """A tape of a module, perhaps one that several processes train; see ``record``."""

    def __init__(
        self,
        model: nn.Module,
        path: str | os.PathLike,
        every: int,
        start: int | None,
        steps_per_epoch: float | None,
        precision: str | None,
    ):
        device = device_of(model)
        module = unwrapped(model)
        network = ModuleTensors(module, device.dtype)
        super().__init__(network, Path(path), every, start, steps_per_epoch, precision)
        several = distributed.is_available() and distributed.is_initialized()
        self._rank, self._ranks = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        self._sharded = any(hasattr(parameter, "full_tensor") for parameter in module.parameters())

    def _begin(self) -> int:
        """Open the store in the first process; an error there ends them all."""
        told: list[int | str] = [0]
        if self._rank == 0:
            try:
                told = [super()._begin()]
            except LossAtlasError as error:
                told = [str(error)]
        elif self._sharded:  # the first process needs everybody's shards
            self._network.recording(np.zeros(0))
            self._read()
        if self._ranks > 1:
            distributed.broadcast_object_list(told, src=0)
        if isinstance(told[0], str):
            raise LossAtlasError(told[0])
        return told[0]

    def _read(self) -> Row | None:
        if self._rank == 0:
            return super()._read()
        if self._sharded:
            super()._read()
        return None
