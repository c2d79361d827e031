"""What keys of a config say of each other: runs, directions and checkpoints that they name."""

import math

from lossatlas.config.model import Model, nearest
from lossatlas.config.models import (
    Checkpoint,
    Config,
    CurveBetween,
    CurveConnected,
    Directions,
    Plane,
    Run,
    SpectraBetween,
)
from lossatlas.errors import LossAtlasError

NETWORK_KINDS = ("eigen", "gradient", "mined", "connection")
"""Kinds of directions that need the network itself; each has a rule of its own, as `pca` has."""


def check(where: str, name: str, run: Run, config: Config) -> None:
    """Check what a run names.

    Raises:
        LossAtlasError: there is no such thing, or it does not fit; ``where`` names the run.
    """
    for key, chosen in run.directions.items():
        for to, end in ends_of(chosen).items():
            _check_point(f"{where}.directions.{key}.{to}", end, config)
    for key, plane in run.planes.items():
        _check_plane(f"{where}.planes.{key}", plane, run)
        _check_paths(f"{where}.planes.{key}.paths", plane, name, config)
    for key, curve in run.curves.items():
        if isinstance(curve, CurveBetween):
            _check_line(f"{where}.curves.{key}", curve, name, config)
        elif isinstance(curve, CurveConnected):
            _check_axis(f"{where}.curves.{key}.connection", curve.connection, run)
            if (kind := run.directions[curve.connection].kind) != "connection":
                raise LossAtlasError(
                    f"{where}.curves.{key}.connection: {curve.connection!r} is of kind {kind!r}, not 'connection'"
                )
        else:
            for axis in axes_of(curve):
                _check_axis(f"{where}.curves.{key}.x", axis, run)
    for key, overlap in run.overlaps.items():
        for axis in axes_of(overlap):
            _check_axis(f"{where}.overlaps.{key}.x", axis, run)
    for key, line in run.spectra_between.items():
        _check_line(f"{where}.spectra_between.{key}", line, name, config)


def check_kinds(runs: dict[str, Run]) -> None:
    """Refuse a name that means another kind in another run when two rules would make it.

    Raises:
        LossAtlasError: names run and directions.
    """
    kinds: dict[str, str] = {}
    for run, settings in runs.items():
        for name, directions in settings.directions.items():
            kind, before = directions.kind, kinds.setdefault(name, directions.kind)
            if kind != before and {kind, before} & {"pca", *NETWORK_KINDS}:
                raise LossAtlasError(
                    f"config: runs.{run}.directions.{name}: kind {kind!r} here and {before!r} in "
                    "another run; give one of them another name"
                )


def _check_point(where: str, point: Checkpoint, config: Config) -> None:
    if point.run is not None and point.run not in config.runs:
        raise LossAtlasError(f"{where}.run: no run {point.run!r}; runs: {', '.join(config.runs)}")


def _check_line(where: str, line: CurveBetween | SpectraBetween, name: str, config: Config) -> None:
    _check_point(f"{where}.to", line.to, config)
    if line.to.run in (None, name) and line.to.iteration == line.from_:
        raise LossAtlasError(
            f"{where}: 'from' and 'to' are both iteration {line.from_!r} of this run; "
            "a line needs two different checkpoints"
        )


def _check_plane(where: str, plane: Plane, run: Run) -> None:
    for axis in ("x", "y"):
        _check_axis(f"{where}.{axis}", getattr(plane, axis), run)
        made = run.directions[split_axis(getattr(plane, axis))[0]]
        if made.kind == "connection" and made.center != plane.center:
            raise LossAtlasError(
                f"{where}.center: {plane.center!r}, but the connection on {axis} begins at {made.center!r}"
            )
    for axis in ("x", "y") if plane.batchnorm == "interpolate" else ():
        name, _ = split_axis(getattr(plane, axis))
        made = run.directions[name]
        if made.kind != "difference" or made.normalize != "none" or made.ignore or plane.orthogonalize:
            raise LossAtlasError(
                f"{where}.batchnorm: 'interpolate' needs axes of kind 'difference' with normalize: none, "
                f"ignore: [] and orthogonalize: false; {name!r} on {axis} is not such a one"
            )


def _check_axis(where: str, axis: str, run: Run) -> None:
    name, number = split_axis(axis)
    if name not in run.directions:
        near = nearest(name, list(run.directions))
        hint = f"did you mean {near!r}?" if near else f"directions: {', '.join(run.directions) or 'none'}"
        raise LossAtlasError(f"{where}: no directions {name!r} in this run; {hint}")
    available = count(run.directions[name])
    if available is not None and number is not None and number >= available:
        raise LossAtlasError(f"{where}: {axis!r}, but {name!r} has only {available} direction(s)")


def _check_paths(where: str, plane: Plane, name: str, config: Config) -> None:
    for other in plane.paths or []:
        if other == name:
            raise LossAtlasError(f"{where}: {name!r} is this run, whose path is there in any case")
        if other not in config.runs:
            known = ", ".join(run for run in config.runs if run != name) or "none"
            raise LossAtlasError(f"{where}: no run {other!r}; other runs: {known}")


def count(directions: Directions) -> int | None:
    """Return how many directions a set will hold, None where only its file knows."""
    if directions.kind == "file":
        return None
    if directions.kind == "eigen":
        return directions.count or directions.largest + directions.smallest
    if directions.kind == "connection":
        return 2
    grid = math.prod(len(getattr(directions, key, None) or [0]) for key in ("gamma", "alpha"))
    return len(ends_of(directions)) * grid or getattr(directions, "count", None) or 1


def axes_of(entry: Model) -> list[str]:
    """Return the directions of a plane, a curve or overlaps as a list, nothing between checkpoints."""
    if isinstance(entry, Plane):
        return [entry.x, entry.y]
    x = getattr(entry, "connection", getattr(entry, "x", []))
    return [x] if isinstance(x, str) else x


def ends_of(entry: Model) -> dict[str, Checkpoint]:
    """Return the checkpoints that directions, a curve or a line lead to by key: ``to``, or ``to.0``, ``to.1``, ..."""
    to = getattr(entry, "to", None) or []
    return {f"to.{number}": end for number, end in enumerate(to)} if isinstance(to, list) else {"to": to}


def sets_of(*entries: Model) -> list[str]:
    """Return the names of the direction sets that planes, curves or overlaps take directions from."""
    return sorted({split_axis(axis)[0] for entry in entries for axis in axes_of(entry)})


def sets_in_use(run: Run) -> list[str]:
    """Return the direction sets that are made; others are left alone."""
    return sets_of(*run.planes.values(), *run.curves.values(), *run.overlaps.values())


def split_axis(axis: str) -> tuple[str, int | None]:
    """Split ``pca/2`` into the name of the set and the index counted from 0; ``pca`` has no index."""
    name, _, number = axis.partition("/")
    return name, int(number) - 1 if number else None
