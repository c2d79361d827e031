"""One-time set-up of PyTorch in a process: device, threads, determinism."""

import os
from dataclasses import dataclass

import torch

from lossatlas.errors import LossAtlasError
from lossatlas.parallel import limit_threads


@dataclass(frozen=True)
class Device:
    """Where and in which precision tensors live."""

    device: torch.device
    dtype: torch.dtype

    @property
    def description(self) -> str:
        """The device in words, for the store."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


def set_up(device: str, dtype: str, threads: int, local_rank: int = 0) -> Device:
    """Choose device and threads, and ask for reproducible arithmetic: no TF32, deterministic kernels.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``. GPUs are dealt to ranks by local rank.
        dtype: ``float32`` or ``float64``.

    Raises:
        LossAtlasError: ``cuda`` on a machine without a usable GPU.
    """
    torch.set_num_threads(threads)
    limit_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise LossAtlasError("device: 'cuda', but PyTorch finds no GPU here; use 'auto' or 'cpu'")
    if device == "cpu" or not available:
        return Device(torch.device("cpu"), getattr(torch, dtype))
    return Device(torch.device("cuda", local_rank % torch.cuda.device_count()), getattr(torch, dtype))
