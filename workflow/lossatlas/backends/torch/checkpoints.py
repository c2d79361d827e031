"""Users' checkpoints: state dicts in .pt, .pth or .safetensors files, loaded weights-only."""

from pathlib import Path

import torch
from torch import Tensor

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.errors import LossAtlasError

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the state dict of a file; one level of wrapping and the prefix ``module.`` are taken off.

    Raises:
        LossAtlasError: it is unreadable or holds something other than named tensors.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise LossAtlasError(
            f"checkpoints: {file} cannot be loaded weights-only ({type(error).__name__}); save `module.state_dict()`"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise LossAtlasError(f"checkpoints: {file} does not hold a state dict of named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def read_checkpoint(file: Path, network: FlatNetwork) -> None:
    """Load one checkpoint into the network.

    Raises:
        LossAtlasError: names or shapes differ from the network's.
    """
    tensors, wanted = read_tensors(file), network.module.state_dict()
    tensors = _restore_ties(tensors, network)
    missing, foreign = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or foreign:
        what = f"lacks {missing[0]!r}" if missing else f"holds {foreign[0]!r}, which the network does not have"
        raise LossAtlasError(f"checkpoints: {file} {what} ({len(missing)} missing, {len(foreign)} foreign names)")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise LossAtlasError(
                f"checkpoints: {file}: {name!r} has shape {tuple(tensors[name].shape)}, "
                f"the network's has {tuple(tensor.shape)}"
            )
    network.module.load_state_dict(tensors)


def read_pretrained(file: Path, network: FlatNetwork) -> None:
    """Load published weights; a last layer of another number of classes keeps the weights that it has.

    Raises:
        LossAtlasError: names or other shapes differ from the network's.
    """
    tensors, own = read_tensors(file), network.module.state_dict()
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
