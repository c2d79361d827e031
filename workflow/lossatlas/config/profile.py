"""Mistakes in a cluster profile's resources, which would otherwise be ignored without a word."""

from collections.abc import Iterable

from lossatlas.config.model import nearest
from lossatlas.config.models import MPI
from lossatlas.errors import LossAtlasError

MPI_RULES = ("pca", "landscape", "curves", "spectra", "curvature", "tracking")
RESOURCES = (
    *("mpi", "tasks", "cpus_per_task", "nodes", "gpu", "gpu_model", "gres", "tasks_per_gpu", "cpus_per_gpu"),
    *("mem_mb", "mem_mb_per_cpu", "disk_mb", "runtime", "slurm_account", "slurm_partition", "slurm_extra"),
    *("constraint", "qos"),
)


TEAM_RULES = ("spectra", "tracking")
"""Rules whose ranks may compute one unit together."""


def check(given: dict[str, dict], rules: Iterable[str], mpi: MPI | None = None) -> None:
    """Check ``set-resources``: {rule: {resource: value}}.

    Args:
        mpi: the config's, whose ``ranks`` hold where the profile gives no ``tasks``.

    Raises:
        LossAtlasError: a rule is unknown, a resource misspelt, a number none, an MPI rule without a launcher
            although another one has one, or ranks cannot be dealt into teams of ``data_ranks``.
    """
    rules = list(rules)
    for name, settings in given.items():
        where = f"profile: set-resources.{name}"
        if name not in rules:
            raise LossAtlasError(f"{where}: no such rule{_nearest(name, rules)}; rules: {', '.join(rules)}")
        for resource in settings:
            if resource not in RESOURCES and _nearest(resource, RESOURCES):
                raise LossAtlasError(f"{where}: unknown resource {resource!r}{_nearest(resource, RESOURCES)}")
        if name in MPI_RULES:
            _check_ranks(where, settings)
    launchers = {name: given.get(name, {}).get("mpi") for name in MPI_RULES}
    for name, launcher in launchers.items():
        if launcher is None and any(launchers.values()):
            other = next(other for other, found in launchers.items() if found)
            raise LossAtlasError(
                f"profile: set-resources.{name}: 'mpi' is missing, though {other} has {launchers[other]!r}; "
                "all MPI rules need a launcher"
            )
    if mpi is None:
        return
    for name in TEAM_RULES:
        ranks, together = given.get(name, {}).get("tasks", mpi.ranks), mpi.data_ranks
        if together != "auto" and ranks % together:
            raise LossAtlasError(
                f"config: mpi.data_ranks: {together} does not divide the {ranks} ranks of rule {name}; "
                "choose a divisor of up to 16, or auto"
            )


def _check_ranks(where: str, settings: dict) -> None:
    # Slurm's plugin refuses MPI jobs of a single task, but only when it submits them.
    for resource, least in (("tasks", 2 if "srun" in str(settings.get("mpi")) else 1), ("cpus_per_task", 1)):
        value = settings.get(resource, least)
        if not (isinstance(value, int) and value >= least):
            raise LossAtlasError(f"{where}.{resource}: {value!r} is not a whole number of at least {least}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = nearest(word, list(known), 0.8)
    return f"; did you mean {near!r}?" if near else ""
