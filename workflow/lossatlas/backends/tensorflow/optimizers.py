"""From the config's ``train`` to a Keras optimiser and learning rates, with PyTorch's names where both have a thing."""

import math
from collections.abc import Callable
from typing import Any

import keras

from lossatlas.errors import LossAtlasError

Rate = Callable[[int], float]

_DECOUPLED = ("AdamW",)
"""Optimisers whose weight decay shrinks the weights; in all others it is the gradient of a penalty, as in PyTorch."""

_SPARE = ("Optimizer", "LossScaleOptimizer")


def make_optimizer(spec: dict) -> tuple[keras.optimizers.Optimizer, float]:
    """Return the optimiser of ``spec``, and the factor of the weights that is to be added to their gradient.

    ``betas``, ``eps`` and RMSprop's ``alpha`` are PyTorch's names of ``beta_1`` and ``beta_2``, ``epsilon`` and
    ``rho``; everything else goes to Keras as it is.

    Raises:
        LossAtlasError: Keras has no such optimiser, or it refuses its arguments.
    """
    name, kwargs = spec["optimizer"], dict(spec["optimizer_kwargs"])
    maker = getattr(keras.optimizers, name, None)
    if not (isinstance(maker, type) and issubclass(maker, keras.optimizers.Optimizer)) or name in _SPARE:
        raise LossAtlasError(f"train.optimizer: {name!r} is not an optimiser in keras.optimizers")
    for key in ("lr", "learning_rate"):
        if key in kwargs:
            raise LossAtlasError(
                f"train.optimizer_kwargs: give the learning rate as train.learning_rate, not as {key!r}"
            )
    if "betas" in kwargs:
        kwargs["beta_1"], kwargs["beta_2"] = kwargs.pop("betas")
    for theirs, ours in (("eps", "epsilon"), ("alpha", "rho")):
        if theirs in kwargs:
            kwargs[ours] = kwargs.pop(theirs)
    decay = 0.0 if name in _DECOUPLED else float(kwargs.pop("weight_decay", 0.0))
    return _make(maker, "train.optimizer_kwargs", learning_rate=spec["learning_rate"], **kwargs), decay


def make_rate(spec: dict) -> Rate:
    """Return the learning rate as a function of the iteration.

    A schedule is one of ``keras.optimizers.schedules``, whose initial rate is ``train.learning_rate``, or one of
    PyTorch's ``StepLR``, ``MultiStepLR``, ``ExponentialLR`` and ``CosineAnnealingLR``, with PyTorch's arguments.

    Raises:
        LossAtlasError: there is no such schedule, or it refuses its arguments.
    """
    initial = float(spec["learning_rate"])
    if "schedule" not in spec:
        return lambda iteration: initial
    name, kwargs = spec["schedule"]["name"], spec["schedule"]["kwargs"]
    if name in _AS_TORCH:
        return _make(_AS_TORCH[name], "train.schedule.kwargs", initial, **kwargs)
    maker = getattr(keras.optimizers.schedules, name, None)
    if not (isinstance(maker, type) and issubclass(maker, keras.optimizers.schedules.LearningRateSchedule)):
        raise LossAtlasError(
            f"train.schedule.name: {name!r} is neither in keras.optimizers.schedules nor one of {', '.join(_AS_TORCH)}"
        )
    first = {} if name == "PiecewiseConstantDecay" else {"initial_learning_rate": initial}
    schedule = _make(maker, "train.schedule.kwargs", **first, **kwargs)
    return lambda iteration: float(schedule(iteration))


def _step(initial: float, step_size: int, gamma: float = 0.1) -> Rate:
    return lambda iteration: initial * gamma ** (iteration // step_size)


def _multi_step(initial: float, milestones: list[int], gamma: float = 0.1) -> Rate:
    return lambda iteration: initial * gamma ** sum(iteration >= milestone for milestone in milestones)


def _exponential(initial: float, gamma: float) -> Rate:
    return lambda iteration: initial * gamma**iteration


def _cosine(initial: float, T_max: int, eta_min: float = 0.0) -> Rate:
    return lambda iteration: eta_min + (initial - eta_min) * (1 + math.cos(math.pi * iteration / T_max)) / 2


_AS_TORCH = {
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "ExponentialLR": _exponential,
    "CosineAnnealingLR": _cosine,
}


def _make(maker: Any, where: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return maker(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: {maker.__name__.strip('_')} refuses its arguments: {error}") from error
