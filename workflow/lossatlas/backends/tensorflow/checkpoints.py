"""Users' checkpoints: ``.keras`` and ``.weights.h5`` files, of which the weights alone are read."""

from pathlib import Path

from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import first_line


def read_checkpoint(file: Path, network: FlatNetwork) -> dict[str, float]:
    """Load one checkpoint into the network; no code of the file runs. No numbers lie beside its weights.

    Raises:
        LossAtlasError: it is of another kind, unreadable, or of another model.
    """
    if not file.name.endswith((".keras", ".weights.h5")):
        raise LossAtlasError(f"checkpoints: {file} is neither a .keras nor a .weights.h5 file")
    try:
        network.model.load_weights(file)
    except Exception as error:
        raise LossAtlasError(f"checkpoints: {file} cannot be loaded into this model ({first_line(error)})") from error
    return {}
