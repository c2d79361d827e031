"""What arithmetic on a config decides: which iterations are recorded, what they suffice for, what is too large."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lossatlas.config.models import Config, Network, Probes, Run, Search
from lossatlas.config.references import ends_of, sets_in_use
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


def training_steps(samples: int, batch_size: int, epochs: float) -> tuple[int, int]:
    """Return how many steps training takes on so many samples: (altogether, per epoch)."""
    per_epoch = math.ceil(samples / min(batch_size, samples))
    return max(1, round(epochs * per_epoch)), per_epoch


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


def recorded(run: Run, checkpoints: Sequence[int] | None = None) -> Recorded | Listed | None:
    """Return what a run records, None where only its data or its checkpoints know.

    Args:
        checkpoints: the iterations of the run's ``checkpoints``, if they are known.
    """
    if run.train is None:
        return None if checkpoints is None else Listed(checkpoints)
    samples = TRAINING_SAMPLES.get(run.data.name or "")
    if samples is None:
        return None
    return Recorded(training_steps(samples, run.train.batch_size, run.train.epochs)[0], run.train.record_every)


def check_sizes(config: Config, checkpoints: dict[str, Sequence[int] | None] | None = None) -> None:
    """Check a config.

    Args:
        checkpoints: the iterations of each run with ``checkpoints``, where they are known.

    Raises:
        LossAtlasError: something is not recorded, too few checkpoints are, a store would be absurdly large, or
            there are more eigenvectors or Lanczos steps than parameters.
    """
    found = {name: recorded(run, (checkpoints or {}).get(name)) for name, run in config.runs.items()}
    for name, run in config.runs.items():
        where = f"config: runs.{name}"
        _check_rows(where, run, found[name])
        _check_iterations(where, name, run, found)
        _check_components(where, run, found[name])
        _check_stores(where, run, found[name])
        _check_parameters(where, run)


def _check_rows(where: str, run: Run, rows: Recorded | Listed | None) -> None:
    if rows is not None and len(rows) > MOST_ROWS:
        raise LossAtlasError(
            f"{where}.train.record_every: {len(rows)} of {rows.last} iterations would be recorded, more than "
            f"{MOST_ROWS}; record fewer or lower train.epochs"
        )
    samples = run.evaluation.train_samples
    most = min(samples, TRAINING_SAMPLES.get(run.data.name or "", samples))
    for name, directions in run.directions.items():
        if (batch := getattr(directions, "samples", None) or 0) > most:
            raise LossAtlasError(
                f"{where}.directions.{name}.samples: {batch}, but the evaluation subset has {most} training samples; "
                "raise evaluation.train_samples"
            )


def _check_iterations(where: str, name: str, run: Run, found: dict[str, Recorded | Listed | None]) -> None:
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


def _named(name: str, run: Run) -> Iterator[tuple[str, str, int | str]]:
    """Yield (key, run, iteration) of all checkpoints that a run's settings name."""
    for kind in ("directions", "planes", "curves", "perturbations", "spectra_between"):
        for entry, settings in getattr(run, kind).items():
            for key in ("center", "from_"):
                if (iteration := getattr(settings, key, None)) is not None:
                    yield f"{kind}.{entry}.{key.rstrip('_')}", name, iteration
            for key, end in ends_of(settings).items():
                yield f"{kind}.{entry}.{key}.iteration", end.run or name, end.iteration


def _pairs(name: str, run: Run) -> Iterator[tuple[str, int | str, int | str]]:
    """Yield (key, one iteration, another) of this run that must differ."""
    for kind, begin in (("directions", "center"), ("curves", "from_"), ("spectra_between", "from_")):
        for entry, settings in getattr(run, kind).items():
            for key, end in ends_of(settings).items():
                if end.run in (None, name):
                    yield f"{kind}.{entry}.{key}", getattr(settings, begin), end.iteration


def _check_components(where: str, run: Run, rows: Recorded | Listed | None) -> None:
    """Check the principal components that are used."""
    for name in sets_in_use(run):
        directions = run.directions[name]
        if rows is None or directions.kind != "pca":
            continue
        needed = directions.count + directions.center_rows + 1
        if len(rows) < needed:
            raise LossAtlasError(
                f"{where}.directions.{name}.count: {directions.count} principal components need at least {needed} "
                f"recorded checkpoints, this run has {len(rows)}; train for longer, or record more often"
            )
        if len(rows) > MOST_PCA_ROWS:
            raise LossAtlasError(
                f"{where}.directions.{name}: the Gram matrix of {len(rows)} recorded checkpoints takes "
                f"{8e-9 * len(rows) ** 2:.0f} GB; at most {MOST_PCA_ROWS}, raise train.record_every"
            )


def _check_stores(where: str, run: Run, rows: Recorded | Listed | None) -> None:
    for name, plane in run.planes.items():
        if (points := math.prod(plane.points)) > MOST_POINTS:
            raise LossAtlasError(f"{where}.planes.{name}.points: {points} points, more than {MOST_POINTS}")
    along = 1 if rows is None or run.spectra is None else -(-len(rows) // run.spectra.stride) + 1
    for name, chosen in _spectra(run).items():
        sites = getattr(chosen, "points", along)
        size = 8e-9 * sites * chosen.probes * chosen.steps * 7
        if size > MOST_GB:
            raise LossAtlasError(
                f"{where}.{name}: {sites} sites x {chosen.probes} probes x {chosen.steps} steps are a store of "
                f"{size:.0f} GB, more than {MOST_GB}; lower them"
            )


def _spectra(run: Run) -> dict[str, Probes]:
    """Return all spectra of a run by key."""
    found: dict[str, Probes] = {f"spectra_between.{name}": line for name, line in run.spectra_between.items()}
    return found | ({"spectra": run.spectra} if run.spectra else {})


def parameters(model: Network) -> int | None:
    """Return the number of parameters of the built-in networks that may be small, None for all others."""
    kwargs = model.kwargs
    classes = kwargs.get("classes", 10)
    if model.name == "lenet":
        return 150 * kwargs.get("channels", 3) + 60_706 + 85 * classes
    if model.name == "mlp":
        widths = [kwargs.get("inputs", 3072), *kwargs.get("hidden", [64, 64]), classes]
        return sum((before + 1) * after for before, after in pairwise(widths))
    return None


def _check_parameters(where: str, run: Run) -> None:
    size = parameters(run.model)
    if size is None:
        return
    if (gigabytes := 4e-9 * size) > MOST_GB:
        raise LossAtlasError(f"{where}.model.kwargs: {size} parameters take {gigabytes:.0f} GB, more than {MOST_GB}")
    searches: dict[str, Search] = {f"directions.{k}": d for k, d in run.directions.items() if d.kind == "eigen"}
    searches |= {"tracking": run.tracking} if run.tracking else {}
    for name, search in searches.items():
        near = getattr(search, "count", None)
        asked, pairs = ("count", near) if near else ("largest + smallest", search.largest + search.smallest)
        if pairs > size:
            raise LossAtlasError(f"{where}.{name}: {asked}, {pairs}, exceed the network's {size} parameters")
    perturbations = {f"perturbations.{name}": chosen for name, chosen in run.perturbations.items()}
    for name, chosen in (_spectra(run) | perturbations).items():
        if chosen.steps > size:
            raise LossAtlasError(f"{where}.{name}.steps: {chosen.steps} exceed the network's {size} parameters")
