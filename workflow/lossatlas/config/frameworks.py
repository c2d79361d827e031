"""What the frameworks offer: optimisers and schedules with their arguments, strategies, precisions, networks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from lossatlas.config import imports, models
from lossatlas.config.models import Run, Train
from lossatlas.config.value_checks import walk
from lossatlas.errors import LossAtlasError

SCHEDULES_OF_BOTH = ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR")
"""Schedules of PyTorch that runs with TensorFlow know too."""


class Home(NamedTuple):
    """Where a framework's classes of one sort are, and what of them can be used here."""

    module: str
    base: str
    unfit: tuple[str, ...]
    passed: tuple[str, ...]
    """Arguments that we pass ourselves."""
    aliases: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Names of arguments as PyTorch has them, by those of the framework."""


OPTIMIZERS = {
    "torch": Home("torch.optim", "Optimizer", ("LBFGS", "SparseAdam"), ("self", "params", "lr")),
    "tensorflow": Home(
        "keras.optimizers",
        "Optimizer",
        ("LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"),
        ("learning_rate",),
        {"betas": ("beta_1", "beta_2"), "eps": ("epsilon",), "alpha": ("rho",), "weight_decay": ()},
    ),
}

_WATCHING = ("_LRScheduler", "ReduceLROnPlateau", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")
SCHEDULES = {
    "torch": Home("torch.optim.lr_scheduler", "LRScheduler", _WATCHING, ("optimizer",)),
    "tensorflow": Home("keras.optimizers.schedules", "LearningRateSchedule", (), ("initial_learning_rate",)),
}
"""Those that watch the loss or take functions or other schedules do not fit."""

BY_FRAMEWORK = {
    "torch": {
        "products": get_args(models.TorchProducts),
        "points": get_args(models.TorchPoints),
        "precision": get_args(models.Precision),
        "model": get_args(models.NetworkName),
    },
    "tensorflow": {
        "products": get_args(models.KerasProducts),
        "points": get_args(models.KerasPoints),
        "precision": ("full",),
        "model": get_args(models.KerasNetwork),
    },
}
"""What the frameworks offer of strategies, precisions and built-in networks."""

ASKED = {"model": {"name"}} | dict.fromkeys(
    ("spectra", "tracking", "directions", "spectra_between", "perturbations", "planes", "curves"), True
)
"""Keys of runs in which names of networks, strategies and precisions stand."""


def check(where: str, run: Run) -> None:
    """Refuse what the run's framework does not have.

    Raises:
        LossAtlasError: names the key; ``where`` is the run's.
    """
    has = BY_FRAMEWORK[run.backend]
    known_names = {"name": has["model"], "precision": has["precision"]}
    for path, value in walk(run.model_dump(include=ASKED)):
        if path[-1:] == ("align",) and value and run.backend != "torch":
            raise LossAtlasError(f"{where}.{'.'.join(path)}: needs backend: torch; leave it out")
        points = len(path) == 3 and path[0] in ("planes", "curves")
        known = {**known_names, "strategy": has["points" if points else "products"]}.get(path[-1] if path else "")
        if isinstance(value, str) and value != "auto" and known and value not in known:
            raise LossAtlasError(
                f"{where}.{'.'.join(path)}: {value!r} is not there with backend: {run.backend}; choose one of "
                f"{', '.join(known)}"
            )
    if run.loss.name == "next-token" and run.backend != "torch":
        raise LossAtlasError(f"{where}.loss.name: 'next-token' is there with backend: torch only")
    if run.train is not None:
        _check_optimizer(f"{where}.train", run.train, run.backend)


def _check_optimizer(where: str, train: Train, backend: str) -> None:
    """Refuse optimisers and schedules, and arguments of theirs, that the framework lacks, before a job finds out."""
    has, given = OPTIMIZERS[backend], list(train.optimizer_kwargs)
    for rate in {"lr", "learning_rate"} & {*given}:
        raise LossAtlasError(f"{where}.optimizer_kwargs.{rate}: give the learning rate as train.learning_rate")
    for alias in [key for key in given if key in has.aliases]:
        given.remove(alias)
        given += has.aliases[alias]
    _check_class(f"{where}.optimizer", train.optimizer, has)
    closed = backend == "tensorflow"  # Keras's optimisers refuse what their **kwargs take
    imports.check_call(has.module, train.optimizer, given, has.passed, f"{where}.optimizer_kwargs", closed)
    if train.schedule is not None and (backend == "torch" or train.schedule.name not in SCHEDULES_OF_BOTH):
        has, name = SCHEDULES[backend], train.schedule.name
        _check_class(f"{where}.schedule.name", name, has)
        passed = has.passed if name != "PiecewiseConstantDecay" else ()
        imports.check_call(has.module, name, train.schedule.kwargs, passed, f"{where}.schedule.kwargs")


def _check_class(where: str, name: str, has: Home) -> None:
    imports.check_installed(has.module, name, where)
    if name in has.unfit or not imports.is_kind_of(has.module, name, has.base):
        raise LossAtlasError(f"{where}: {name!r} of {has.module} cannot be used here; choose another one")
