"""One-time set-up of PyTorch in a process: device, threads, determinism."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

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
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # With deterministic algorithms PyTorch also fills all new memory, for programs that read it before they write it.
    # Ours do not, and it takes 6 % of a product with curvature.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise LossAtlasError("device: 'cuda', but PyTorch finds no GPU here; use 'auto' or 'cpu'")
    if device == "cpu" or not available:
        return Device(torch.device("cpu"), getattr(torch, dtype))
    return Device(torch.device("cuda", local_rank % torch.cuda.device_count()), getattr(torch, dtype))


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free, for the next ones.

    It hands out large tensors as fresh pages and gives them back at once; touching those pages then costs as much as
    the arithmetic. Only glibc can be told; for a whole process, which must be ours.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
        mallopt(option, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def device_of(model: nn.Module, dtype: str | None = None) -> Device:
    """Return the device that a model lives on, and its precision unless ``dtype`` names another.

    Raises:
        LossAtlasError: ``model`` is no module or has no parameters, or ``dtype`` is neither float32 nor float64.
    """
    if not isinstance(model, nn.Module):
        raise LossAtlasError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    first = next(model.parameters(), None)
    if first is None:
        raise LossAtlasError("model: it has no parameters, so there is no loss surface")
    own = "float64" if first.dtype == torch.float64 else "float32"
    dtype = str(dtype).removeprefix("torch.") if dtype is not None else None
    if dtype not in (None, "float32", "float64"):
        raise LossAtlasError(f"dtype: {dtype!r} is not one of float32, float64")
    return Device(first.device, getattr(torch, dtype or own))


@contextmanager
def own_modes() -> Iterator[None]:
    """Switch TF32 off and gradients on for a while, in a process that is not ours alone."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
