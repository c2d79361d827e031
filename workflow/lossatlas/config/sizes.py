"""What arithmetic on a config decides: which iterations are recorded, what they suffice for, what is too large."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lossatlas.config.references import axes_of, ends_of
from lossatlas.errors import LossAtlasError

TRAINING_SAMPLES = {"fashion-mnist-mini": 4000, "fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}

MOST_ROWS = 10**6
"""Recorded iterations of a run; each is a whole copy of the network."""

MOST_POINTS = 10**7
"""Grid points of a plane."""

MOST_GB = 100
"""Size of one store of spectra or directions."""

MOST_PCA_ROWS = 50_000
"""Recorded iterations that principal components are taken of; their Gram matrix then takes 20 GB."""


def training_steps(samples: int, train: dict) -> tuple[int, int]:
    """Return how many steps the config's ``train`` takes on so many samples: (altogether, per epoch)."""
    per_epoch = math.ceil(samples / min(train["batch_size"], samples))
    return max(1, round(train["epochs"] * per_epoch)), per_epoch


@dataclass(frozen=True)
class Recorded:
    """The iterations that a run records: 0, every, 2 every, ... and the last."""

    last: int
    every: int = 1

    def __len__(self) -> int:
        return self.last // self.every + 1 + (self.last % self.every > 0)

    def __contains__(self, iteration: int) -> bool:
        return iteration == self.last or (iteration % self.every == 0 and 0 <= iteration < self.last)

    def number(self, iteration: int | str) -> int:
        """Return ``first`` and ``last`` as numbers."""
        return {"first": 0, "last": self.last}[iteration] if isinstance(iteration, str) else iteration

    def nearest(self, iteration: int) -> int:
        """Return the recorded iteration that is nearest."""
        below = min(iteration, self.last) // self.every * self.every
        return min((below, min(below + self.every, self.last)), key=lambda n: abs(n - iteration))


@dataclass(frozen=True)
class Listed:
    """Recorded iterations that are known one by one, ascending."""

    iterations: Sequence[int]

    @property
    def last(self) -> int:
        """The last one."""
        return self.iterations[-1]

    def __len__(self) -> int:
        return len(self.iterations)

    def __contains__(self, iteration: int) -> bool:
        return iteration in self.iterations

    def number(self, iteration: int | str) -> int:
        """Return ``first`` and ``last`` as numbers."""
        return self.iterations[{"first": 0, "last": -1}[iteration]] if isinstance(iteration, str) else iteration

    def nearest(self, iteration: int) -> int:
        """Return the recorded iteration that is nearest."""
        return min(self.iterations, key=lambda n: abs(n - iteration))


def recorded(run: dict, checkpoints: Sequence[int] | None = None) -> Recorded | Listed | None:
    """Return what a run records, None where only its data or its checkpoints know.

    Args:
        checkpoints: the iterations of the run's ``checkpoints``, if they are known.
    """
    if "checkpoints" in run:
        return None if checkpoints is None else Listed(checkpoints)
    samples = TRAINING_SAMPLES.get(run["data"].get("name", ""))
    if samples is None:
        return None
    return Recorded(training_steps(samples, run["train"])[0], run["train"]["record_every"])


def check_sizes(config: dict, checkpoints: dict[str, Sequence[int] | None] | None = None) -> None:
    """Check a resolved config.

    Args:
        checkpoints: the iterations of each run with ``checkpoints``, where they are known.

    Raises:
        LossAtlasError: something is not recorded, too few checkpoints are, a store would be absurdly large, or
            there are more eigenvectors or Lanczos steps than parameters.
    """
    found = {name: recorded(run, (checkpoints or {}).get(name)) for name, run in config["runs"].items()}
    for name, run in config["runs"].items():
        where = f"config: runs.{name}"
        _check_rows(where, run, found[name])
        _check_iterations(where, name, run, found)
        _check_components(where, run, found[name])
        _check_stores(where, run, found[name])
        _check_parameters(where, run)


def _check_rows(where: str, run: dict, rows: Recorded | Listed | None) -> None:
    if rows is not None and len(rows) > MOST_ROWS:
        raise LossAtlasError(
            f"{where}.train.record_every: {len(rows)} of {rows.last} iterations would be recorded, more than "
            f"{MOST_ROWS}; record fewer or lower train.epochs"
        )
    samples = run["evaluation"]["train_samples"]
    most = min(samples, TRAINING_SAMPLES.get(run["data"].get("name", ""), samples))
    for name, directions in run["directions"].items():
        if directions.get("samples", 0) > most:
            raise LossAtlasError(
                f"{where}.directions.{name}.samples: {directions['samples']}, but the evaluation subset has {most} "
                "training samples; raise evaluation.train_samples"
            )


def _check_iterations(where: str, name: str, run: dict, found: dict[str, Recorded | Listed | None]) -> None:
    for key, other, iteration in _named(name, run):
        rows = found[other]
        if rows is not None and isinstance(iteration, int) and iteration not in rows:
            raise LossAtlasError(
                f"{where}.{key}: iteration {iteration} of {other} is not recorded; the nearest is "
                f"{rows.nearest(iteration)}, the last {rows.last}"
            )
    rows = found[name]
    if rows is None:
        return
    for key, center, end in _pairs(name, run):
        if rows.number(center) == rows.number(end):
            raise LossAtlasError(f"{where}.{key}: {center!r} and {end!r} are both iteration {rows.number(end)}")


def _named(name: str, run: dict) -> Iterator[tuple[str, str, int | str]]:
    """Yield (key, run, iteration) of all checkpoints that a run's settings name."""
    for kind, keys in (("directions", ("center",)), ("planes", ("center",)), ("curves", ("center", "from"))):
        for entry, settings in run[kind].items():
            yield from ((f"{kind}.{entry}.{key}", name, settings[key]) for key in keys if key in settings)
    for entry, line in run["spectra_between"].items():
        yield f"spectra_between.{entry}.from", name, line["from"]
    for entry, directions in run["directions"].items():
        for key, end in ends_of(directions):
            yield f"directions.{entry}.{key}.iteration", end.get("run", name), end["iteration"]
    for kind in ("curves", "spectra_between"):
        for entry, line in run[kind].items():
            if "to" in line:
                yield f"{kind}.{entry}.to.iteration", line["to"].get("run", name), line["to"]["iteration"]


def _pairs(name: str, run: dict) -> Iterator[tuple[str, int | str, int | str]]:
    """Yield (key, one iteration, another) of this run that must differ."""
    for entry, directions in run["directions"].items():
        for key, end in ends_of(directions):
            if end.get("run", name) == name:
                yield f"directions.{entry}.{key}", directions["center"], end["iteration"]
    for kind in ("curves", "spectra_between"):
        for entry, line in run[kind].items():
            if "to" in line and line["to"].get("run", name) == name:
                yield f"{kind}.{entry}", line["from"], line["to"]["iteration"]


def _check_components(where: str, run: dict, rows: Recorded | Listed | None) -> None:
    """Check the principal components that are used."""
    axes = [plane[axis] for plane in run["planes"].values() for axis in ("x", "y")]
    for entry in [*run["curves"].values(), *run["overlaps"].values()]:
        axes += axes_of(entry)
    for name in sorted({axis.split("/")[0] for axis in axes}):
        directions = run["directions"][name]
        if rows is None or directions["kind"] != "pca":
            continue
        needed = directions["count"] + directions["center_rows"] + 1
        if len(rows) < needed:
            raise LossAtlasError(
                f"{where}.directions.{name}.count: {directions['count']} principal components need at least {needed} "
                f"recorded checkpoints, this run has {len(rows)}; train for longer, or record more often"
            )
        if len(rows) > MOST_PCA_ROWS:
            raise LossAtlasError(
                f"{where}.directions.{name}: the Gram matrix of {len(rows)} recorded checkpoints takes "
                f"{8e-9 * len(rows) ** 2:.0f} GB; at most {MOST_PCA_ROWS}, raise train.record_every"
            )


def _check_stores(where: str, run: dict, rows: Recorded | Listed | None) -> None:
    for name, plane in run["planes"].items():
        if (points := math.prod(plane["points"])) > MOST_POINTS:
            raise LossAtlasError(f"{where}.planes.{name}.points: {points} points, more than {MOST_POINTS}")
    spectra = {f"spectra_between.{name}": (line["points"], line) for name, line in run["spectra_between"].items()}
    if "spectra" in run:
        stride = run["spectra"]["stride"]
        spectra["spectra"] = (1 if rows is None else -(-len(rows) // stride) + 1, run["spectra"])
    for name, (sites, chosen) in spectra.items():
        size = 8e-9 * sites * chosen["probes"] * chosen["steps"] * 7
        if size > MOST_GB:
            raise LossAtlasError(
                f"{where}.{name}: {sites} sites x {chosen['probes']} probes x {chosen['steps']} steps are a store of "
                f"{size:.0f} GB, more than {MOST_GB}; lower them"
            )


def parameters(model: dict) -> int | None:
    """Return the number of parameters of the built-in networks that may be small, None for all others."""
    kwargs = model["kwargs"]
    classes = kwargs.get("classes", 10)
    if model.get("name") == "lenet":
        return 150 * kwargs.get("channels", 3) + 60_706 + 85 * classes
    if model.get("name") == "mlp":
        widths = [kwargs.get("inputs", 3072), *kwargs.get("hidden", [64, 64]), classes]
        return sum((before + 1) * after for before, after in pairwise(widths))
    return None


def _check_parameters(where: str, run: dict) -> None:
    size = parameters(run["model"])
    if size is None:
        return
    if (gigabytes := 4e-9 * size) > MOST_GB:
        raise LossAtlasError(f"{where}.model.kwargs: {size} parameters take {gigabytes:.0f} GB, more than {MOST_GB}")
    searches = {f"directions.{name}": d for name, d in run["directions"].items() if d["kind"] == "eigen"}
    searches |= {"tracking": run["tracking"]} if "tracking" in run else {}
    for name, search in searches.items():
        asked = "count" if "near" in search else "largest + smallest"
        if (pairs := search.get("count", search["largest"] + search["smallest"])) > size:
            raise LossAtlasError(f"{where}.{name}: {asked}, {pairs}, exceed the network's {size} parameters")
    spectra = {f"spectra_between.{name}": line for name, line in run["spectra_between"].items()}
    spectra |= {"spectra": run["spectra"]} if "spectra" in run else {}
    for name, chosen in spectra.items():
        if chosen["steps"] > size:
            raise LossAtlasError(f"{where}.{name}.steps: {chosen['steps']} exceed the network's {size} parameters")
