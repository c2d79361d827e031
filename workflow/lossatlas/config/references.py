"""What keys of a config say of each other: runs, directions and checkpoints that they name."""

from lossatlas.config.model import nearest
from lossatlas.config.models import Config, CurveBetween, CurveConnected, Plane, Run, SpectraBetween
from lossatlas.errors import LossAtlasError

NETWORK_KINDS = ("eigen", "gradient", "mined", "connection")
"""Kinds of directions that need the network itself; each has a rule of its own, as `pca` has."""


def check(where: str, name: str, run: Run, config: Config) -> None:
    """Check what a run names.

    Raises:
        LossAtlasError: there is no such thing, or it does not fit; ``where`` names the run.
    """
    for key, chosen in run.directions.items():
        for part, end in ends_of(chosen.model_dump()):
            _check_run(f"{where}.directions.{key}.{part}", end.get("run"), config)
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
            for axis in [curve.x] if isinstance(curve.x, str) else curve.x:
                _check_axis(f"{where}.curves.{key}.x", axis, run)
    for key, overlap in run.overlaps.items():
        for axis in axes_of(overlap.model_dump()):
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


def _check_run(where: str, run: str | None, config: Config) -> None:
    if run is not None and run not in config.runs:
        raise LossAtlasError(f"{where}.run: no run {run!r}; runs: {', '.join(config.runs)}")


def _check_line(where: str, line: CurveBetween | SpectraBetween, name: str, config: Config) -> None:
    _check_run(f"{where}.to", line.to.run, config)
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
    available = count(run.directions[name].model_dump())
    if available is not None and number is not None and number >= available:
        raise LossAtlasError(f"{where}: {axis!r}, but {name!r} has only {available} direction(s)")


def _check_paths(where: str, plane: Plane, name: str, config: Config) -> None:
    for other in plane.paths or []:
        if other == name:
            raise LossAtlasError(f"{where}: {name!r} is this run, whose path is there in any case")
        if other not in config.runs:
            known = ", ".join(run for run in config.runs if run != name) or "none"
            raise LossAtlasError(f"{where}: no run {other!r}; other runs: {known}")


def count(directions: dict) -> int | None:
    """Return how many directions a set will hold, None where only its file knows."""
    if directions["kind"] == "file":
        return None
    if directions["kind"] == "eigen":
        return directions.get("count", directions["largest"] + directions["smallest"])
    if directions["kind"] == "connection":
        return 2
    grid = len(directions.get("gamma", [0])) * len(directions.get("alpha", [0]))
    return len(directions["to"]) * grid if "to" in directions else directions.get("count", 1)


def axes_of(curve: dict) -> list[str]:
    """Return the directions of a curve as a list, nothing between checkpoints."""
    x = curve.get("x", curve.get("connection", []))
    return [x] if isinstance(x, str) else x


def ends_of(directions: dict) -> list[tuple[str, dict]]:
    """Return the checkpoints that directions lead to, each with its key."""
    to = directions.get("to", [])
    return [("to", to)] if isinstance(to, dict) else [(f"to.{number}", end) for number, end in enumerate(to)]


def split_axis(axis: str) -> tuple[str, int | None]:
    """Split ``pca/2`` into the name of the set and the index counted from 0; ``pca`` has no index."""
    name, _, number = axis.partition("/")
    return name, int(number) - 1 if number else None
