"""Directions from a file of the user's."""

from pathlib import Path

import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.geometry.directions.unnormalized import RawDirections, Source
from lossatlas.io.layout import ParameterLayout


def make(spec: dict, source: Source) -> RawDirections:
    """Read directions from the file ``path``.

    An ``.npy`` file holds an array (direction, parameter) or one flat vector. An ``.npz``, ``.pt``, ``.pth`` or
    ``.safetensors`` file holds flat vectors by name, or tensors named ``<direction>/<parameter name>`` that
    together cover every parameter; directions are taken in the order of their sorted names.

    Raises:
        LossAtlasError: the file is missing or unreadable, or sizes and names differ from the network's.
    """
    layout, where = source.trajectory.layout, f"directions.path: {spec['path']}"
    arrays = _read(Path(spec["path"]), where)
    named: dict[str, dict[str, np.ndarray]] = {}
    vectors: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        direction, slash, parameter = name.partition("/")
        if slash:
            named.setdefault(direction, {})[parameter] = array
        else:
            vectors[name] = _checked(array.reshape(-1), layout.size, f"{where}: {name}")
    for direction, tensors in named.items():
        vectors[direction] = _assemble(tensors, layout, f"{where}: {direction}")
    labels = sorted(vectors)
    return RawDirections(np.stack([vectors[label] for label in labels]), labels)


def _read(path: Path, where: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise LossAtlasError(f"{where}: no such file")
    try:
        if path.suffix == ".npy":
            rows = np.atleast_2d(np.load(path, allow_pickle=False))
            return {f"{path.stem} {k + 1}": row for k, row in enumerate(rows)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        from lossatlas.backends.torch.checkpoints import read_tensors

        return {name: tensor.numpy() for name, tensor in read_tensors(path)[0].items()}
    except (ValueError, OSError) as error:
        raise LossAtlasError(f"{where}: not readable ({error})") from error


def _assemble(tensors: dict[str, np.ndarray], layout: ParameterLayout, where: str) -> np.ndarray:
    names = {slot.name for slot in layout}
    wrong = sorted(names ^ tensors.keys())
    if wrong:
        what = "is missing" if wrong[0] in names else "is no trained parameter of the network"
        raise LossAtlasError(f"{where}: {wrong[0]!r} {what}")
    parts = [_checked(tensors[s.name].reshape(-1), s.size, f"{where}/{s.name}") for s in layout]
    return np.concatenate(parts)


def _checked(vector: np.ndarray, size: int, where: str) -> np.ndarray:
    if vector.size != size:
        raise LossAtlasError(f"{where}: {vector.size} numbers, the network has {size} there")
    if not np.isfinite(vector).all():
        raise LossAtlasError(f"{where}: holds NaN or inf")
    return vector.astype(np.float64)
