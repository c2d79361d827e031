"""Driver: cosines of directions with each other and with Gaussian vectors; no loss is evaluated (Li et al. 2024)."""

from argparse import Namespace
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import zarr

from lossatlas.drivers.base import Job
from lossatlas.geometry.directions import read_directions
from lossatlas.geometry.directions.direction_set import Axes
from lossatlas.geometry.directions.random import random
from lossatlas.io.arrays import Array, create_arrays
from lossatlas.io.store import Store
from lossatlas.parallel import World, limit_threads

SCHEMA = (
    Array("direction", ("direction",), "direction", dtype=str),
    Array("cosine", ("direction", "other_direction"), "cosine of the angle between two directions"),
    Array(
        "gaussian",
        ("gaussian",),
        "number of the Gaussian vector: of that direction of kind random with this seed",
        dtype="int64",
    ),
    Array("gaussian_cosine", ("direction", "gaussian"), "cosine of the angle between direction and Gaussian vector"),
)


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines between rows (n, N) and rows (m, N), shape (n, m), in [-1, 1]."""
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, others))
    return np.clip(one @ other.T, -1, 1)


def planned_size(overlap: dict, directions: int) -> tuple[int, int]:
    """Return how many files a store of overlaps has, and bytes before compression."""
    return 2 * len(SCHEMA) + 1, 8 * (directions + overlap["gaussians"]) * (directions + 1)


@dataclass
class Overlaps(Job):
    """Cosines of some directions, as they are walked along, with each other and with Gaussian vectors."""

    axes: Axes

    kind: ClassVar[str] = "overlaps"

    @classmethod
    def read(cls, args: Namespace, world: World) -> Self:
        """Open the directions."""
        limit_threads(1)
        axes = read_directions(args.x)
        return cls(args.spec, axes, inputs=axes.identities)

    def build(self, group: zarr.Group) -> None:
        """Compute all cosines and write them; Gaussian vectors are made one by one and not kept."""
        vectors, count, seed = self.axes.vectors, self.spec["gaussians"], self.spec["seed"]
        gaussian = np.zeros((len(vectors), count))
        for k in range(count):
            gaussian[:, k] = cosines(vectors, random(vectors.shape[1], 1, seed, first=k).vectors)[:, 0]
        summary = "cosine(direction, other_direction) of 'used' directions; a Gaussian vector's is about 0 with "
        summary += "standard deviation 1 / sqrt(parameters)"
        group.attrs.update({"title": "Overlaps of directions", "summary": summary, "parameters": vectors.shape[1]})
        known: dict[str, Any] = {
            "direction": self.axes.labels,
            "cosine": cosines(vectors, vectors),
            "gaussian_cosine": gaussian,
        }
        create_arrays(group, SCHEMA, known | {"gaussian": np.arange(1, count + 1)})

    @staticmethod
    def conclude(store: Store) -> dict[str, Any]:
        """Return the largest overlap with a Gaussian vector."""
        gaussian = np.abs(store["gaussian_cosine"][:])
        return {"directions": len(gaussian), "largest |cosine| with a Gaussian": f"{gaussian.max(initial=0):.3g}"}
