"""Which iterations a run's checkpoints are, as far as their names, the config or a recorded trajectory tell."""

import json
import re
from itertools import pairwise
from pathlib import Path

from lossatlas.config.models import Checkpoints
from lossatlas.errors import LossAtlasError

_STEP = re.compile(r"(?:step|iter|iteration|checkpoint)s?[-_=]?(\d+)", re.IGNORECASE)
_WHOLE = re.compile(r"(?<!\d\.)(?<!\d)\d+(?!\d)(?!\.\d)")
"""A number that is no part of a decimal one, such as that of a loss."""


def iterations(settings: Checkpoints, files: list[str], where: str) -> list[int] | None:
    """Return the iteration of each of the config's ``checkpoints``; None where only the files tell.

    Args:
        where: the key, for messages.

    Raises:
        LossAtlasError: a key has another length, or ``files`` hold a store that is no trajectory or not alone.
    """
    given = settings.plain("files")
    if any(file.endswith(".zarr") for file in files):
        if len(files) > 1:
            raise LossAtlasError(f"config: {where}.files: {len(files)} files, one a .zarr; give it alone")
        if given:
            raise LossAtlasError(
                f"config: {where}.{next(iter(given))}: a recorded trajectory has its own; leave it out"
            )
        return recorded_iterations(files[0], f"{where}.files")
    for key, numbers in given.items():
        if len(numbers) != len(files):
            raise LossAtlasError(f"config: {where}.{key}: {len(numbers)} numbers for {len(files)} files")
    return settings.iterations or named_iterations(files)


def named_iterations(files: list[str]) -> list[int] | None:
    """Return the numbers in names that ascend, those after ``step`` before all others; None if there are none.

    A name without numbers takes those of its folder (``checkpoint-500/model.safetensors``).
    """
    names = [(Path(file).stem, Path(file).parent.name) for file in files]
    for pattern in (_STEP, _WHOLE) if len(files) > 1 else (_STEP,):
        found = [next((numbers[-1] for name in both if (numbers := pattern.findall(name))), None) for both in names]
        steps = [int(number) for number in found if number is not None]
        if len(steps) == len(files) and all(one < other for one, other in pairwise(steps)):
            return steps
    return None


def recorded_iterations(path: str, where: str) -> list[int] | None:
    """Return the iterations of a recorded trajectory, from its attributes alone; None while it is being recorded.

    Raises:
        LossAtlasError: it is no trajectory, or nothing is recorded yet; ``where`` names the config key.
    """
    try:
        attributes = json.loads((Path(path) / "zarr.json").read_text())["attributes"]
        kind = attributes["provenance"]["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = "unknown"
    if kind != "trajectory":
        what = f"is a store of kind {kind!r}, no trajectory"
        raise LossAtlasError(f"config: {where}: {path!r} {what}; give what lossatlas.record or KerasRecorder wrote")
    if attributes.get("rows") == 0:
        raise LossAtlasError(f"config: {where}: {path!r} holds no iteration yet; record some steps first")
    return attributes.get("iterations") if attributes["finished"] else None
