"""A module seen as one flat parameter vector."""

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossatlas.backends.torch.device import Device
from lossatlas.data import Part
from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout, ParameterSlot, is_variance
from lossatlas.io.trajectory import Recording

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SHIFTS = {"bias", "beta", "shift"}
_PARAMETRIZATIONS = "parametrizations"
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class ModuleTensors:
    """A module's trainable parameters, frozen parameters and floating-point buffers, read as flat vectors.

    The module is not copied: what is read is what it holds then. Tied parameters appear once, parameters that lie in
    shards on several ranks (``DTensor``) whole. What is trainable is settled here.

    Raises:
        LossAtlasError: nothing in the module is trainable.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        self.module, self.dtype = module, dtype
        named = list(module.named_parameters())
        self._trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self._frozen = [(name, parameter) for name, parameter in named if not parameter.requires_grad]
        if not self._trainable:
            raise LossAtlasError("model: no parameter requires a gradient, so there is no loss surface")
        self.layout = _layout(module, self._trainable)
        persistent = module.state_dict().keys()
        self._buffers = [(n, b) for n, b in module.named_buffers() if b.is_floating_point() and n in persistent]

    def recording(self, iterations: np.ndarray, steps_per_epoch: float | None = None) -> Recording:
        """Describe a trajectory of this network."""
        return Recording(
            self.layout,
            iterations,
            str(self.dtype).removeprefix("torch."),
            steps_per_epoch,
            [(name, tuple(buffer.shape)) for name, buffer in self._buffers],
            self.frozen(),
            [(name, tuple(parameter.shape)) for name, parameter in self._frozen],
        )

    def parameters(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of theta, written into ``out`` where it is given."""
        return _gather(self._trainable, self.dtype, out)

    def buffers(self) -> np.ndarray:
        """Return a copy of all floating-point buffers, flat."""
        return _gather(self._buffers, self.dtype)

    def frozen(self) -> np.ndarray:
        """Return a copy of all parameters that are not trained, flat."""
        return _gather(self._frozen, self.dtype)


class FlatNetwork(ModuleTensors):
    """A private copy of a module whose trainable parameters are views into one flat tensor ``theta``.

    Writing ``theta`` changes the network at once, and an optimiser's step changes ``theta``. Frozen parameters and
    floating-point buffers are written as flat vectors, too.

    Raises:
        LossAtlasError: nothing in the module is trainable.
    """

    def __init__(self, module: nn.Module, device: Device):
        self.device = device
        super().__init__(_copied(module).to(device=device.device, dtype=device.dtype).eval(), device.dtype)
        self.theta = torch.cat([p.detach().reshape(-1) for _, p in self._trainable])
        for slot, (_, parameter) in zip(self.layout, self._trainable, strict=True):
            parameter.data = self.theta[slot.slice].view(slot.shape)
        self._origin = [weakref.ref(parameter) for parameter in module.parameters()]
        self._hooks: list[RemovableHandle] = []
        self.stages: dict[tuple, Any] = {}  # traced graphs by the shape of the inputs

    def origin(self) -> list[Tensor]:
        """Return the parameters of the module that was copied, as long as it exists."""
        return [parameter for reference in self._origin if (parameter := reference()) is not None]

    def parameters(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of theta, written into ``out`` where it is given."""
        return _gather([("theta", self.theta)], self.dtype, out)

    @torch.no_grad()
    def load(
        self,
        theta: np.ndarray | None = None,
        buffers: np.ndarray | None = None,
        frozen: np.ndarray | None = None,
    ) -> None:
        """Write any of theta, buffers and frozen parameters into the network."""
        if theta is not None:
            self.theta.copy_(torch.as_tensor(np.asarray(theta)))
        if buffers is not None:
            _scatter(self._buffers, buffers)
        if frozen is not None:
            _scatter(self._frozen, frozen)

    def take_apart(self, parts: Sequence[Part]) -> None:
        """From now on give the module as several tensors what it is given side by side, (sample, number)."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = [self.module.register_forward_pre_hook(_apart(parts), with_kwargs=True)] if parts else []

    def variances(self) -> np.ndarray:
        """Return which of the flat buffers are running variances, bool."""
        parts = [np.full(buffer.numel(), is_variance(name)) for name, buffer in self._buffers]
        return np.concatenate([np.zeros(0, bool), *parts])

    def unflatten_buffers(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the buffers by name as views into a flat tensor."""
        parts = flat.split([buffer.numel() for _, buffer in self._buffers]) if self._buffers else ()
        return {n: part.view(b.shape) for (n, b), part in zip(self._buffers, parts, strict=True)}

    def vector(self, values: np.ndarray) -> Tensor:
        """Return values as a tensor of the network's precision on its device."""
        # Contiguous, for traced graphs view their inputs as they were laid out when traced.
        return torch.as_tensor(np.ascontiguousarray(values)).to(self.device.device, self.device.dtype)


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Leave the attributes of a module and its submodules as they were, whatever its evaluation puts into them.

    Some networks keep tables there when first evaluated. Those made while gradients are taken, or while a graph is
    traced, are no use afterwards; those made without gradients for good (in inference mode) are copied for the while.
    """
    owns = [part.__dict__ for part in module.modules()]
    owns += [value for own in owns for value in own.values() if type(value) is dict]
    before = [dict(own) for own in owns]
    for own in owns:
        own.update({key: value.clone() for key, value in own.items() if type(value) is Tensor and value.is_inference()})
    try:
        yield
    finally:
        for own, was in zip(owns, before, strict=True):
            own.clear()
            own.update(was)


def _copied(module: nn.Module) -> nn.Module:
    """Return a copy, in which tensors that a module computes and keeps (``torch.nn.utils.weight_norm``) have no past.

    Raises:
        LossAtlasError: it cannot be copied.
    """
    kept = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    try:
        return copy.deepcopy(module, {id(value): value.detach().clone() for value in kept if not value.is_leaf})
    except Exception as error:
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise LossAtlasError(
            f"model: copy.deepcopy of it fails ({told}); keep nothing in it that has no copy"
        ) from error


def _apart(parts: Sequence[Part]) -> Callable[[nn.Module, tuple, dict], tuple[tuple, dict]]:
    """Return the hook that gives a module the columns of a tensor as several tensors."""
    sizes = [math.prod(part.shape) for part in parts]

    def hook(module: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        places, names = [], {}
        for part, columns in zip(parts, given[0].split(sizes, 1), strict=True):
            tensor = columns.unflatten(1, part.shape) if part.shape else columns.squeeze(1)
            dtype = np.dtype(part.dtype)
            if dtype.kind != "f":
                tensor = tensor.to(torch.bool if dtype.kind == "b" else torch.int64)
            if part.name:
                names[part.name] = tensor
            else:
                places.append(tensor)
        return tuple(places), names

    return hook


def _gather(tensors: Sequence[tuple[str, Tensor]], dtype: torch.dtype, out: np.ndarray | None = None) -> np.ndarray:
    """Return a flat copy of tensors on the host, in ``out`` where it is given."""
    if not tensors:
        return torch.zeros(0, dtype=dtype).numpy()
    whole = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for _, tensor in tensors]  # shards
    parts = [tensor.detach().reshape(-1) for tensor in whole]
    held = torch.empty(sum(map(len, parts)), dtype=dtype) if out is None else torch.from_numpy(out)
    if all(part.device.type == "cpu" and part.dtype == dtype for part in parts):
        torch.cat(parts, out=held)
    else:
        held.copy_(torch.cat(parts))
    return held.numpy()


def _scatter(tensors: Sequence[tuple[str, Tensor]], flat: np.ndarray) -> None:
    needed = sum(t.numel() for _, t in tensors)
    if len(flat) != needed:
        raise LossAtlasError(f"the network holds {needed} such numbers, {len(flat)} were given")
    start = 0
    for _, tensor in tensors:
        stop = start + tensor.numel()
        tensor.copy_(torch.as_tensor(flat[start:stop]).view(tensor.shape))
        start = stop


def _layout(module: nn.Module, trainable: Sequence[tuple[str, Tensor]]) -> ParameterLayout:
    owners = dict(module.named_modules())
    slots, offset = [], 0
    for name, parameter in trainable:
        prefix, leaf = _owner(name)
        shape = tuple(parameter.shape)
        kind = _kind(owners[prefix], leaf, shape)
        slots.append(ParameterSlot(name, shape, offset, kind, _filter_axis(owners[prefix], kind, shape)))
        offset += math.prod(shape)
    return ParameterLayout(tuple(slots))


def _owner(name: str) -> tuple[str, str]:
    """Return the name of the module that a parameter belongs to, and what it is called there.

    What a parametrisation (``weight_norm``) is made from belongs to the module whose parameter it makes.
    """
    parts = name.split(".")
    if _PARAMETRIZATIONS in parts:
        at = len(parts) - 1 - parts[::-1].index(_PARAMETRIZATIONS)
        return ".".join(parts[:at]), parts[at + 1]
    return ".".join(parts[:-1]), parts[-1]


def _kind(owner: nn.Module, leaf: str, shape: tuple[int, ...]) -> str:
    words = leaf.lower().split("_")  # bias_ih_l0, in_proj_bias
    along_one_axis = sum(size > 1 for size in shape) <= 1
    named = along_one_axis and "norm" in type(owner).__name__.lower()
    if isinstance(owner, _NORMS) or named:  # those of PyTorch may have several axes, LayerNorm([C, H, W])
        return "norm-shift" if _SHIFTS.intersection(words) else "norm-scale"
    return "bias" if "bias" in words and along_one_axis else "weight"


def _filter_axis(owner: nn.Module, kind: str, shape: tuple[int, ...]) -> int | None:
    if kind != "weight" or len(shape) < 2:
        return None
    # A transposed convolution keeps its output channels on axis 1 (in, out / groups, ...).
    return 1 if isinstance(owner, _TRANSPOSED) and shape[1] > 1 else 0
