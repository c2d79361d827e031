"""Whether model, loss and data fit together, and a loss is the mean over samples, tried before any work starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lossatlas.backends.torch.batchnorm import statistics
from lossatlas.backends.torch.losses import Axes, Loss, chosen, mapped, mean_squares, one_by_one, recognised, tensors
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import (
    CHECKED,
    alike,
    check_mean,
    check_repeats,
    check_same_outputs,
    first_line,
    fitting,
)

MOVED = 0.2
"""How far from the present parameters a loss is tried too, of their root mean square: there a fresh network whose
outputs are all alike (a last layer of zeros) tells samples apart."""

Run = Callable[[Tensor], Any]
"""From numbers of samples to the outputs of the network."""


class Fit(NamedTuple):
    """What some samples tell of model, loss and data.

    Attributes:
        outputs, targets: those of some samples.
        axes: where samples lie in the outputs; None if they lie on no axis of their own.
        class_axis: the axis of class scores in outputs that are one tensor (or in those that the loss takes from the
            outputs), None where targets are no classes.
        class_count: how many classes there are, None where targets are none.
        least: how many samples model and loss need at once: one, or two where they take a single one for something
            else (``squeeze``).
    """

    outputs: Any
    targets: Tensor
    axes: Axes | None
    class_axis: int | None
    class_count: int | None
    least: int


@torch.no_grad()
def fit(
    network: FlatNetwork,
    loss: Loss,
    data: tuple[Tensor, Tensor],
    metrics: dict[str, Loss] | None = None,
    size: int = CHECKED,
    batchnorm: str = "frozen",
) -> Fit:
    """Try model, loss and metrics on the samples ``data``, and return what that tells.

    Functions of the user's are compared with the mean over samples on all of them, in groups of ``size`` or more drawn
    from all over, at the present parameters and at others nearby.

    Raises:
        LossAtlasError: model and data do not fit; outputs are random, or depend on the other samples though
            ``batchnorm`` is ``frozen``; loss or a metric is no mean over samples, is random or reads parameters; or
            targets are no classes.
    """
    network.module.eval()
    inputs, targets = data

    def run(index: Tensor) -> Any:
        with statistics(batchnorm):
            return network.module(inputs[index])

    few = torch.linspace(0, len(inputs) - 1, min(CHECKED, len(inputs))).long()
    few = (few if len(few) > 1 else few.expand(2)).to(inputs.device)  # a lone sample twice
    some = targets[few]
    outputs, axes = _outputs(run, loss, data, few)
    functions = {"loss": loss, **{f"metrics.{name}": metric for name, metric in (metrics or {}).items()}}
    for who, function in functions.items():
        _check_call(who, function, network, outputs, some)
    own = {who: f for who, f in functions.items() if recognised(f) is None and f is not mean_squares}
    for shift in (0.0, MOVED):
        with moved(network, shift):
            if batchnorm == "frozen":
                _check_model(run, few, axes)
            _check_singles(own, run(few), some, axes)
            for group in _groups(len(inputs), size, inputs.device) if own else ():
                if len(group) >= 4:  # fewer are compared one by one
                    _check_parts(own, run, group, targets, axes)
    known = recognised(loss)
    scores = outputs if known is None else known.scores(outputs, some)
    classed = isinstance(scores, Tensor)
    class_axis = _class_axis(loss, scores, some if known is None else known.wanted(some)) if classed else None
    class_count = None if class_axis is None else scores.shape[class_axis]
    least = 1 if batchnorm == "batch" else _least(run, loss, few, some, axes)
    return Fit(outputs, some, axes, class_axis, class_count, least)


def _outputs(run: Run, loss: Loss, data: tuple[Tensor, Tensor], few: Tensor) -> tuple[Any, Axes | None]:
    """Return the outputs of a few samples, and in which axes of them the samples are."""
    inputs, targets = (part[few] for part in data)
    with fitting(*((tuple(part.shape), str(part.dtype)) for part in (inputs, targets))):
        outputs, more = run(few), run(torch.cat([few, few[:1]]))
        if (known := recognised(loss)) and isinstance(known.scores(outputs, targets), Tensor):
            known.check(outputs, data[1])
        loss(outputs, targets)
    axes: list[int | None] = []
    for one, other in zip(tensors(outputs), tensors(more), strict=True):
        changed = [a for a in range(one.ndim) if one.ndim == other.ndim and one.shape[a] != other.shape[a]]
        if one.ndim != other.ndim or len(changed) > 1 or any(one.shape[a] != len(few) for a in changed):
            return outputs, None
        axes.append(changed[0] if changed else None)
    return outputs, tuple(axes)


@contextmanager
def moved(network: FlatNetwork, shift: float) -> Iterator[None]:
    """Move the network's parameters for a while, by normal numbers of ``shift`` times their root mean square."""
    if not shift:
        yield
        return
    before = network.theta.clone()
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0), dtype=before.dtype, device="cpu")
    scale = float(before.square().mean().sqrt()) or 1.0
    network.theta.add_(noise.to(before.device), alpha=shift * scale)
    try:
        yield
    finally:
        network.theta.copy_(before)


def _check_call(who: str, function: Loss, network: FlatNetwork, outputs: Any, targets: Tensor) -> None:
    """Refuse a loss or metric that fails, draws random numbers, or reads parameters by itself."""
    try:
        whole, again = function(outputs, targets), function(outputs, targets)
        with torch.enable_grad(), _Reads(network.origin()) as reads:
            value = function(mapped(outputs, lambda tensor: tensor.detach().clone()), targets)
    except LossAtlasError:
        raise
    except Exception as error:  # whatever a function of the user's does
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(outputs))
        raise LossAtlasError(
            f"{who}: on outputs {shapes} and targets {tuple(targets.shape)} it gave {first_line(error)}"
        ) from error
    if reads.found or value.requires_grad:
        raise LossAtlasError(
            f"{who}: it reads parameters besides the outputs (a penalty on model.parameters()?); the network that is "
            "evaluated is a private copy, which they are no part of. Leave a penalty out (mu / 2 |theta|^2 adds mu to "
            "every eigenvalue), or let the model return it among its outputs; parameters of others that are meant as "
            "constants need requires_grad=False"
        )
    check_repeats(who, float(whole), float(again))


class _Reads(TorchFunctionMode):
    """Notes whether any operation is given one of some tensors or a view of it."""

    def __init__(self, watched: list[Tensor]):
        super().__init__()
        self.watched, self.found = {_address(tensor) for tensor in watched} - {None}, False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Look at the arguments and pass them on."""
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        self.found = self.found or not self.watched.isdisjoint(given)
        return func(*args, **(kwargs or {}))


def _address(tensor: Tensor) -> int | None:
    """Return where a tensor's storage lies, None where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # one that a transformation wraps
        return None


def _check_model(run: Run, few: Tensor, axes: Axes | None) -> None:
    """Refuse outputs that are random, or depend on the other samples of a batch."""
    outputs, half = tensors(run(few)), len(few) // 2
    check_same_outputs(*(list(map(_as_numpy, each)) for each in (outputs, tensors(run(few)))))
    if axes is None:
        return
    parts = [few[:half], few[half:]]
    first, second = (tensors(run(part if len(part) > 1 else part.expand(2))) for part in parts)
    for whole, a, b, axis in zip(outputs, first, second, axes, strict=True):
        if axis is not None:
            a, b = (part.narrow(axis, 0, len(index)) for part, index in zip((a, b), parts, strict=True))
        parts_made = [a, b] if axis is None else [_together(a, b, axis)]
        if not all(alike(_as_numpy(whole), _as_numpy(made)) for made in parts_made):
            raise LossAtlasError(
                "model: the outputs of a sample depend on the others of its batch (BatchNorm without running "
                "statistics? spectra and Hessians can take batchnorm: batch)"
            )


def _together(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return two tensors as one, the first alone if their shapes do not fit: that differs from the whole as well."""
    fit_together = a.shape[:axis] + a.shape[axis + 1 :] == b.shape[:axis] + b.shape[axis + 1 :]
    return torch.cat([a, b], axis) if fit_together else a


def _as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _groups(count: int, size: int, device: torch.device) -> list[Tensor]:
    """Return the numbers of all samples in a random order, in groups of ``size`` or a few more."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu").to(device)
    return list(order.tensor_split(max(1, count // max(size, CHECKED))))


def _check_singles(own: dict[str, Loss], outputs: Any, targets: Tensor, axes: Axes | None) -> None:
    """Compare functions of a few samples with the mean of those of single ones."""
    if axes is None:
        return
    for who, function in own.items():
        single = one_by_one(function, axes, outputs, targets, 2 if len(targets) != 2 else 3)
        _check_mean(who, function(outputs, targets), single, [1.0] * len(single))


def _check_parts(own: dict[str, Loss], run: Run, group: Tensor, targets: Tensor, axes: Axes | None) -> None:
    """Compare functions of a group of samples with the mean of those of its parts, and these with their halves."""
    outputs, everywhere = run(group), torch.arange(len(group), device=group.device)

    def value(function: Loss, index: Tensor) -> Tensor:
        some = chosen(outputs, axes, index) if axes is not None else run(group[index])
        return function(some, targets[group[index]])

    for who, function in own.items():
        parts = everywhere.tensor_split(max(2, len(group) // CHECKED))
        found = [value(function, part) for part in parts]
        _check_mean(who, function(outputs, targets[group]), torch.stack(found), [len(part) for part in parts])
        for part, whole in zip(parts, found, strict=True) if len(parts) > 2 else ():
            halves = part.tensor_split(2)
            of_halves = torch.stack([value(function, half) for half in halves])
            _check_mean(who, whole, of_halves, [len(half) for half in halves])


def _check_mean(who: str, whole: Tensor, parts: Tensor, counts: list[float]) -> None:
    """Refuse what is not the mean of its parts."""
    shares = torch.tensor(counts, dtype=torch.float64, device=parts.device) / sum(counts)
    mean, scale = float(shares @ parts.double()), float(shares @ parts.double().abs())
    precision = torch.finfo(whole.dtype).eps if whole.dtype == torch.float64 else torch.finfo(torch.float32).eps
    hint = "; or give nn.CrossEntropyLoss(...) or nn.NLLLoss(...) itself, whose weights are known"
    check_mean(who, float(whole), mean, int(sum(counts)), max(1e-5, precision**0.5) * scale, hint)


def _class_axis(loss: Loss, outputs: Tensor, targets: Tensor) -> int | None:
    """Return the axis that outputs have and targets lack: the second, or the last in sequences.

    Where both could be it is the one along which a higher score of the target lowers the loss more.
    """
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1:
        return None
    axes = [1] if recognised(loss) else dict.fromkeys((1, outputs.ndim - 1))
    fits = [a for a in axes if outputs.shape[a] > 1 and outputs.shape[:a] + outputs.shape[a + 1 :] == targets.shape]
    if len(fits) < 2:
        return fits[0] if fits else None
    valid = (targets >= 0) & (targets < outputs.shape[1])

    def raised(axis: int) -> float:
        places = torch.where(valid, targets, 0).unsqueeze(axis)
        return float(loss(outputs.scatter_add(axis, places, valid.to(outputs.dtype).unsqueeze(axis)), targets))

    return min(fits, key=raised)


def _least(run: Run, loss: Loss, few: Tensor, targets: Tensor, axes: Axes | None) -> int:
    """Return how many samples model and loss need at once: two where a single one fails or gives something else."""
    try:
        one, pair = run(few[:1]), run(few[:1].expand(2))
        shapes = [tuple(t.shape) for t in tensors(one)]
        if axes is not None and shapes != [tuple(t.shape) for t in tensors(chosen(pair, axes, few.new_zeros(1)))]:
            return 2
        values = loss(one, targets[:1]).double(), loss(pair, targets[:1].expand(2, *targets.shape[1:])).double()
        return 1 if torch.allclose(*values, 1e-3, 1e-6, equal_nan=True) else 2
    except Exception:  # whatever a single sample makes of model or loss
        return 2
