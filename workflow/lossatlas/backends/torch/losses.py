"""Losses over a fixed set of samples: what each sample contributes, so that it does not matter how they are cut.

PyTorch's losses of classes are means weighted by the classes, and leave ignored targets out: of a part of the samples
such a mean divides by that part's weight. Here it is divided by the weight of all samples, which is known beforehand.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import check_averageable

Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ClassLoss:
    """``functional.cross_entropy`` or ``nll_loss`` with the choices of theirs that say what counts how much.

    Called it is PyTorch's own mean over a batch. Networks may return scores alone or several things with the scores
    among them, see ``scores``. With ``next_token`` those at a place are of the token at the next one, and what is
    given as targets are the tokens themselves, as causal language models of Hugging Face take their labels.
    """

    function: Callable[..., Tensor]
    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    next_token: bool = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the targets that are not ignored, weighted by their classes."""
        return self.reduced(outputs, targets, "mean")

    def reduced(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """Return what PyTorch makes of it."""
        found = self.scores(outputs, targets)
        weight = None if self.weight is None else self.weight.to(found.device, found.dtype)
        choices: dict[str, Any] = {"weight": weight, "ignore_index": self.ignore_index, "reduction": reduction}
        if self.function is functional.cross_entropy:
            choices["label_smoothing"] = self.label_smoothing
        return self.function(found, self.wanted(targets), **choices)

    def wanted(self, targets: Tensor) -> Tensor:
        """Return the targets that scores are compared with."""
        return targets[:, 1:] if self.next_token else targets

    def scores(self, outputs: Any, targets: Tensor) -> Any:
        """Return what a network returns as scores with the classes on the second axis, beside ``wanted`` targets.

        Of a mapping these are its ``logits``, of a tuple the first tensor. There, and of the next token, classes may
        be on the last axis; a tensor alone has them as PyTorch's losses do.
        """
        found = outputs
        if isinstance(outputs, Mapping):
            found = outputs.get("logits", outputs)
        elif isinstance(outputs, tuple | list):
            found = outputs[0]
        last = self.next_token or found is not outputs
        if last and isinstance(found, Tensor) and found.shape[1:-1] == targets.shape[1:]:
            found = found.movedim(-1, 1)
        return found[..., :-1] if self.next_token else found

    def valid(self, targets: Tensor) -> Tensor:
        """Return which targets count, bool."""
        return self.wanted(targets) != self.ignore_index

    def weights(self, targets: Tensor) -> Tensor:
        """Return by how much each target counts, float64; 0 where it is ignored."""
        valid, targets = self.valid(targets), self.wanted(targets)
        if self.weight is None:
            return valid.double()
        return self.weight.to(targets.device).double()[torch.where(valid, targets, 0)] * valid

    def check(self, outputs: Any, targets: Tensor) -> None:
        """Refuse targets, all of them, that are no classes of the outputs, and weights that are not one per class.

        Raises:
            LossAtlasError: which target it is, or that every one is ignored.
        """
        name = "cross-entropy" if self.function is functional.cross_entropy else "the negative log-likelihood"
        if self.next_token and (targets.ndim != 2 or targets.is_floating_point()):
            raise LossAtlasError(
                f"loss: next-token needs tokens (sample, place), the targets are {targets.dtype} of shape "
                f"{tuple(targets.shape[1:])} per sample"
            )
        outputs = self.scores(outputs, targets)
        count = outputs.shape[1 if outputs.ndim > 1 else 0]
        if self.weight is not None and self.weight.shape != (count,):
            raise LossAtlasError(f"loss: {len(self.weight)} weights of classes, but the outputs have {count} classes")
        if targets.is_floating_point():
            _check_shares(name, outputs, targets)
            return
        counted = self.wanted(targets)[self.valid(targets)]
        if counted.numel() == 0 or float(self.weights(targets).sum()) == 0:
            raise LossAtlasError(f"loss: {name}: every target is ignored ({self.ignore_index}) or has weight 0")
        for found in (int(counted.min()), int(counted.max())):
            if not 0 <= found < count:
                raise LossAtlasError(
                    f"loss: {name} of the class {found}; classes count from 0 and the outputs have {count}"
                )


def _check_shares(name: str, outputs: Tensor, targets: Tensor) -> None:
    shares = targets.shape[1:] == outputs.shape[1:] and outputs.ndim > 1
    if not shares or not torch.allclose(targets.sum(1), targets.new_ones(()), rtol=1e-4):
        raise LossAtlasError(
            f"loss: {name} needs integer classes, the targets are {targets.dtype} of shape "
            f"{tuple(targets.shape[1:])} per sample; use loss: {{name: mse}} or your own"
        )


def recognised(loss: Any) -> ClassLoss | None:
    """Return PyTorch's means over classes, however they are given, as a ``ClassLoss``; None for all other losses."""
    functions = functional.cross_entropy, functional.nll_loss
    if isinstance(loss, ClassLoss):
        return loss
    if loss in functions:
        return ClassLoss(loss)
    if type(loss) in (nn.CrossEntropyLoss, nn.NLLLoss) and loss.reduction == "mean":
        smoothing = getattr(loss, "label_smoothing", 0.0)
        function = functions[type(loss) is nn.NLLLoss]
        return ClassLoss(function, loss.weight, loss.ignore_index, smoothing)
    if isinstance(loss, partial) and loss.func in functions and not loss.args:
        choices = {key: value for key, value in loss.keywords.items() if (key, value) != ("reduction", "mean")}
        if choices.keys() <= {"weight", "ignore_index", "label_smoothing"}:
            return ClassLoss(loss.func, **choices)
    return None


NEXT_TOKEN = ClassLoss(functional.cross_entropy, next_token=True)
"""The mean cross-entropy of the next token over all that are not ignored (-100)."""


def is_cross_entropy(loss: Any) -> bool:
    """Return whether a loss is a cross-entropy of logits, of which a uniform guess among C classes has log C."""
    known = recognised(loss)
    return known is not None and known.function is functional.cross_entropy


class OverSamples:
    """A ``ClassLoss`` over all of some targets, as a mean over samples of what each contributes.

    Called it returns that mean over some of the samples: averaged over parts of the samples by their size, whatever
    the parts, it is PyTorch's mean over all.

    Attributes:
        uniform: whether all targets count alike.
    """

    def __init__(self, loss: ClassLoss, targets: Tensor, like: Tensor):
        self.loss = loss if loss.weight is None else replace(loss, weight=loss.weight.to(like))
        self.uniform = targets.is_floating_point() or bool(loss.weight is None and loss.valid(targets).all())
        self.scale = 1.0 if self.uniform else len(targets) / float(loss.weights(targets).sum())

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of what some samples contribute."""
        if self.uniform:
            return self.loss(outputs, targets)
        return self.loss.reduced(outputs, targets, "sum") * (self.scale / len(targets))

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what each sample contributes, (sample,)."""
        found = self.loss.reduced(outputs, targets, "none").reshape(len(targets), -1)
        return found.mean(1) if self.uniform else found.sum(1) * self.scale

    def shares(self, targets: Tensor) -> Tensor:
        """Return the weight of each sample, (sample,) float64, 1 on average over all."""
        return self.loss.weights(targets).reshape(len(targets), -1).sum(1) * self.scale


def mean_over_samples(own: Loss, who: str) -> Loss:
    """Return a user's function with the mean over samples taken, where it returns one value for each.

    Values per position of a sequence, of the targets' shape, are averaged over samples and positions alike; where a
    loss without reduction ignores targets, their zeros count.

    Args:
        who: names the function in messages.
    """

    def mean_loss(outputs: Any, targets: Tensor) -> Tensor:
        value = own(outputs, targets)
        check_averageable(who, tuple(value.shape) if isinstance(value, Tensor) else None, value, tuple(targets.shape))
        return (value if value.is_floating_point() else value.double()).mean()  # counts, and hits or misses, too

    mean_loss.own = own  # type: ignore[attr-defined]
    return mean_loss


def tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors in what a network returns, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(outputs, note)
    return found


def mapped(outputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return what a network returns with each tensor replaced: of tuples, lists, mappings and dataclasses."""
    if isinstance(outputs, Tensor):
        return function(outputs)
    if isinstance(outputs, tuple | list):
        parts = [mapped(part, function) for part in outputs]
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
    if isinstance(outputs, Mapping):
        made: Any = copy(outputs)
        for key, part in outputs.items():
            made[key] = mapped(part, function)
        return made
    if is_dataclass(outputs) and not isinstance(outputs, type):
        named = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
        return replace(outputs, **{name: mapped(part, function) for name, part in named.items()})
    return outputs


Axes = tuple[int | None, ...]
"""The axis of samples in each tensor of some outputs, None in those that have none."""


def chosen(outputs: Any, axes: Axes, index: Tensor) -> Any:
    """Return the outputs of some samples."""
    each = iter(axes)

    def some(tensor: Tensor) -> Tensor:
        axis = next(each)
        return tensor if axis is None else tensor.index_select(axis, index)

    return mapped(outputs, some)


def per_sample(loss: Loss, outputs: Any, targets: Tensor, axes: Axes) -> Loss:
    """Return the function (outputs, targets) -> the loss of each sample, (sample,); some samples show which one works.

    A user's function that returns the mean alone is asked for one sample after the other, twice the same, since
    functions that squeeze their arguments take a single one for something else.
    """
    own = getattr(loss, "own", loss)
    value = own(outputs, targets)
    if value.ndim >= 1 and len(value) == len(targets):
        return lambda o, t: _of_positions(own(o, t))
    together = partial(_together, loss, axes)
    try:
        together(outputs, targets)
        return together
    except Exception:  # the function does what vmap has no rule for
        return partial(one_by_one, loss, axes)


def one_by_one(loss: Loss, axes: Axes, outputs: Any, targets: Tensor, copies: int = 2) -> Tensor:
    """Return the loss of each sample, (sample,), as that of some copies of it."""
    groups = torch.arange(len(targets), device=targets.device)[:, None].expand(-1, copies)
    return torch.stack([loss(chosen(outputs, axes, group), targets[group]) for group in groups])


def _of_positions(values: Tensor) -> Tensor:
    values = values if values.is_floating_point() else values.double()
    return values.reshape(len(values), -1).mean(1)


def _together(loss: Loss, axes: Axes, outputs: Any, targets: Tensor) -> Tensor:
    """Return the loss of each sample, all at once."""

    def alone(target: Tensor, *parts: Tensor) -> Tensor:
        pairs = (p if axis is None else torch.stack([p, p], axis) for p, axis in zip(parts, axes, strict=True))
        return loss(mapped(outputs, lambda _: next(pairs)), torch.stack([target, target]))

    return vmap(alone, (0, *axes))(targets, *tensors(outputs))


def mean_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared difference; targets take the outputs' shape."""
    # Spelled out, because functional.mse_loss has no forward derivative of its gradient.
    return (outputs - targets.to(outputs.dtype).view_as(outputs)).square().mean()


def same_shape_mean_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what ``functional.mse_loss`` does, where it does not broadcast in operations with forward derivatives."""
    return mean_squares(outputs, targets) if outputs.shape == targets.shape else functional.mse_loss(outputs, targets)
