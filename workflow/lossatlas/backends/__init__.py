"""One folder per deep-learning framework; nothing else in the package knows one."""

from importlib import import_module
from types import ModuleType
from typing import Any

from lossatlas.config import imports
from lossatlas.data import Subset
from lossatlas.errors import LossAtlasError
from lossatlas.io.trajectory import Trajectory
from lossatlas.problem import Problem


def backend(name: str) -> ModuleType:
    """Return the module of a backend: ``FlatNetwork``, ``Trainer``, ``Problem``, ``set_up`` and so on.

    It is imported here and not before, so that a process has one framework.

    Raises:
        LossAtlasError: the framework is not installed.
    """
    try:
        return import_module(f"lossatlas.backends.{name}")
    except ModuleNotFoundError as error:
        raise LossAtlasError(
            f"backend: {name!r} needs the package {error.name!r}, which is not installed; "
            f"pip install 'lossatlas[{name}]'"
        ) from error


def problems_of_run(
    module: ModuleType,
    device: Any,
    spec: dict,
    trajectory: Trajectory,
    subsets: dict[str, Subset],
    batch_size: int,
    batchnorm: str = "frozen",
) -> dict[str, Problem]:
    """Rebuild a run's network, with its parameters that are not trained, as one problem per evaluation subset.

    Raises:
        LossAtlasError: the trajectory was recorded from another network.
    """
    network = module.FlatNetwork(module.build_module(spec["model"], spec["seed"]), device)
    if network.layout != trajectory.layout:
        raise LossAtlasError(f"{trajectory.path}: was recorded from another network than the config's model")
    network.load(frozen=trajectory.frozen)
    loss, metrics = module.build_loss(spec["loss"]), metrics_of_run(module, spec.get("metrics", {}))
    how = batch_size, batchnorm, metrics
    return {name: module.Problem(network, loss, subset.samples, *how) for name, subset in subsets.items()}


def metrics_of_run(module: ModuleType, specs: dict[str, dict]) -> dict[str, Any]:
    """Return a run's own metrics by name, functions (outputs, targets) -> scalar mean over the batch.

    Args:
        specs: the keys ``import`` and ``python_path`` of each.
    """
    found = {}
    for name, spec in specs.items():
        own = imports.load(spec["import"], spec["python_path"], f"metrics.{name}")
        found[name] = module.mean_over_samples(own, f"metrics.{name}: {spec['import']!r}")
    return found
