"""Before the first Hessian product: whether the memory will do, and what the jobs of a run need not measure again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.io import owner, store
from lossatlas.problem import Choice, Problem, choices_of


class Remembered:
    """How products are computed, as jobs of a run have chosen it: a small file in the run's folder.

    The choice depends on the clock and takes several products. A file that cannot be read is ignored; each store
    records its choice for itself.

    Args:
        run_dir: the folder of the run.
        what: all that the choice depends on besides what ``choice`` is given, as JSON.
    """

    def __init__(self, run_dir: Path, **what: Any):
        self._path, self._what = run_dir / ".stores" / "products.json", what

    def choice(self, make: Callable[[], Choice], width: int, count: int | None, **what: Any) -> Choice:
        """Return the choice that was made for the same, or make it.

        Args:
            width: vectors at once.
            count: products that are ahead; what pays for many may not for few, so about as many are meant.
        """
        about = count.bit_length() if count is not None else None
        text = json.dumps([self._what, width, about, what, store.software()], sort_keys=True)
        key, known = hashlib.sha256(text.encode()).hexdigest()[:16], self._read()
        if key not in known:
            choice = make()
            owner.write(self._path, json.dumps({**self._read(), key: choice._asdict()}, indent=1).encode())
            return choice
        return Choice(**known[key])

    def _read(self) -> dict[str, dict]:
        try:
            known = json.loads(self._path.read_text())
            return {key: one for key, one in known.items() if {*Choice._fields} == one.keys()}
        except (OSError, ValueError, AttributeError):
            return {}


def check_memory(backend: ModuleType, network: Any, loss: dict, samples: Split, needs: dict[str, dict]) -> None:
    """Refuse a ``memory_gb`` that not even one vector and one sample fit into.

    Args:
        loss: its entry in the spec of a job.
        samples: some samples of the training set, at least four and at least a chunk.
        needs: the choices of the jobs of a run that compute products, by key of the config.

    Raises:
        LossAtlasError: there is one; the message names the key.
    """
    built = backend.build_loss(loss) if needs else None
    for key, spec in needs.items():
        least = backend.least_product_bytes(network, built, samples, spec) / 2**30
        if least > spec["memory_gb"]:
            raise LossAtlasError(
                f"{key}.memory_gb: {spec['memory_gb']:.3g} is too little: at least about {least:.2g} for one vector "
                "and one sample at once"
            )


def choose_products(
    problem: Problem,
    at: tuple[np.ndarray, np.ndarray],
    width: int,
    spec: dict,
    remembered: Remembered | None = None,
    count: int | None = None,
) -> Choice:
    """Choose how Hessian products are computed.

    Args:
        at: theta and buffers of a point where products are tried.
        width: vectors at once.
        spec: the choices of a driver, see ``choices_of``; all that chunks depend on may be among them.
        remembered: choices of other jobs of the run, which are then not made and checked again.
        count: products that are ahead, about, if that is known.
    """
    choices = choices_of(spec)

    def made() -> Choice:
        return problem.choose_strategy(*at, width, **choices, count=count)

    chunks = {key: spec[key] for key in ("batch_size", "batchnorm") if key in spec}
    return remembered.choice(made, width, count, **choices, **chunks) if remembered else made()
