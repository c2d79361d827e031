"""Users' checkpoints: state dicts in .pt, .pth, .ckpt or .safetensors files, loaded weights-only."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.errors import LossAtlasError

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the state dict of a file, and the numbers that lie beside it, such as ``global_step``.

    One level of wrapping and the prefix ``module.`` are taken off.

    Raises:
        LossAtlasError: it is unreadable or holds something other than named tensors.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LossAtlasError(
            f"checkpoints: {file} cannot be loaded weights-only ({type(error).__name__}); save `module.state_dict()`"
        ) from error
    numbers: dict[str, float] = {}
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            numbers |= {key: value for key, value in found.items() if isinstance(value, int | float)}
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise LossAtlasError(f"checkpoints: {file} does not hold a state dict of named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}, numbers


def read_checkpoint(file: Path, network: FlatNetwork) -> dict[str, float]:
    """Load one checkpoint into the network; return the numbers that lie beside its weights.

    Parameters that are not trained may be missing, as in what adapters save, and buffers with them; they stay as they
    are. All names may begin with one more word (``model.``, of what a LightningModule holds).

    Raises:
        LossAtlasError: names or shapes differ from the network's.
    """
    (tensors, numbers), wanted = read_tensors(file), network.module.state_dict()
    trained = {slot.name for slot in network.layout}
    tensors = _restore_ties(_renamed(tensors, trained), network)
    missing, foreign = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if not trained & {*missing} and wanted.keys() & {name for name, _ in network.module.named_parameters()} & {
        *missing
    }:
        missing, wanted = [], {name: tensor for name, tensor in wanted.items() if name in tensors}
    if missing or foreign:
        what = f"lacks {missing[0]!r}" if missing else f"holds {foreign[0]!r}, which the network does not have"
        raise LossAtlasError(f"checkpoints: {file} {what} ({len(missing)} missing, {len(foreign)} foreign names)")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise LossAtlasError(
                f"checkpoints: {file}: {name!r} has shape {tuple(tensors[name].shape)}, "
                f"the network's has {tuple(tensor.shape)}"
            )
    network.module.load_state_dict(tensors, strict=False)  # what may be missing is settled above
    return numbers


def _renamed(tensors: dict[str, Tensor], trained: set[str]) -> dict[str, Tensor]:
    """Return tensors by the network's names, where PEFT left ``default`` out of them or they lie one word deeper."""
    short = {name.replace(".default.", "."): name for name in trained}
    if not trained <= tensors.keys() and short.keys() <= tensors.keys():
        return {short.get(name, name): tensor for name, tensor in tensors.items()}
    if trained & tensors.keys():
        return tensors
    first = min(trained)
    for prefix in {name.removesuffix(first) for name in tensors if name.endswith(f".{first}")}:
        if all(prefix + name in tensors for name in trained):
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return tensors


def read_pretrained(file: Path, network: FlatNetwork) -> None:
    """Load published weights; a last layer of another number of classes keeps the weights that it has.

    Raises:
        LossAtlasError: names or other shapes differ from the network's.
    """
    (tensors, _), own = read_tensors(file), network.module.state_dict()
    last_layer = list(own)[-2:]  # weight and bias
    replaced = {name: own[name] for name in last_layer if name in tensors and tensors[name].shape != own[name].shape}
    try:
        network.module.load_state_dict({**tensors, **replaced})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise LossAtlasError(f"model.pretrained: {file} does not fit the network: {reason}") from error


def _restore_ties(tensors: dict[str, Tensor], network: FlatNetwork) -> dict[str, Tensor]:
    """Fill in names that .safetensors files drop because they are tied to another parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    filled = dict(tensors)
    for tied in names.values():
        present = [name for name in tied if name in tensors]
        if present:
            filled |= {name: tensors[present[0]] for name in tied if name not in tensors}
    return filled
