"""The loss of ``bowl`` as a backend: what the scripts take of ``lossatlas.backends.torch``.

Its Hessian is computed as a sum over ``LEAVES`` unequal leaves, as that of a network is one over samples.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import events
import numpy as np
from bowl import MINIMUM, N, loss, second, slope
from lossatlas.io.layout import ParameterLayout, ParameterSlot
from lossatlas.io.trajectory import Recording
from lossatlas.krylov.tree_sum import LEAVES, fold

LAYOUT = ParameterLayout(
    (ParameterSlot("w", (12, 10), 0, "weight", 0), ParameterSlot("b", (12,), 120, "bias", None)),
)
SHARES = np.random.default_rng(1).dirichlet(np.ones(LEAVES))


class Choice(NamedTuple):
    strategy: str
    told: str
    peak: int
    agreement: dict


class Hessian:
    size, dtype = N, np.dtype(np.float32)

    def __init__(self, theta: np.ndarray):
        self.diagonal, self.products = second(theta), 0

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        return self.partial(vectors, range(LEAVES))[0][1]

    def partial(self, vectors: np.ndarray, leaves: range) -> list:
        events.happens("evaluate")
        self.products += len(vectors)
        return fold([(range(n, n + 1), SHARES[n] * self.diagonal * vectors) for n in leaves])


class Restriction:
    def __init__(self, problem: "Problem", center: np.ndarray, directions: np.ndarray):
        self.problem, self.center, self.directions = problem, np.float64(center), directions

    def metrics(self, points: np.ndarray) -> np.ndarray:
        return np.stack([self.problem.metrics(self.center + point @ self.directions) for point in points])


class Problem:
    layout, batchnorm, metric_names, class_count = LAYOUT, "frozen", ("loss", "accuracy"), 10

    def __init__(self, _network: object, _loss: None, split, *_: object):
        self.samples = len(split)

    def metrics(self, theta: np.ndarray, _buffers: np.ndarray | None = None) -> np.ndarray:
        events.happens("evaluate")
        value = loss(np.float64(theta)) + 0.01 * self.samples  # splits differ
        return np.array([value, np.exp(-value)])

    def gradient(self, theta: np.ndarray, _buffers: np.ndarray) -> np.ndarray:
        return slope(np.float64(theta))

    def linearize(self, theta: np.ndarray, _buffers: np.ndarray, **_choices: object) -> Hessian:
        return Hessian(np.float64(theta))

    def choose_strategy(self, *_at: object, **_choices: object) -> Choice:
        return Choice("split", "split, in closed form", 0, {})

    def restrict(self, center: np.ndarray, directions: np.ndarray, *_: object, **_choices: object) -> Restriction:
        return Restriction(self, center, directions)

    def choose_evaluation(self, *_at: object, **_choices: object) -> SimpleNamespace:
        return SimpleNamespace(strategy="eager", told="eager, in closed form", error=None, agreement=None)


class FlatNetwork:
    layout = LAYOUT

    def __init__(self, theta: np.ndarray, _device: object):
        self.theta = theta

    def parameters(self) -> np.ndarray:
        return self.theta.copy()

    def buffers(self) -> np.ndarray:
        return np.zeros(0, np.float32)

    def load(self, **_what: np.ndarray) -> None:
        """Take parameters that are not trained, of which there are none."""

    def recording(self, iterations: np.ndarray, steps_per_epoch: float | None = None) -> Recording:
        return Recording(LAYOUT, iterations, "float32", steps_per_epoch)


class Trainer:
    """Gradient descent with momentum on noisy gradients; the noise is a function of seed and iteration."""

    def __init__(self, network: FlatNetwork, _loss: object, split, spec: dict, seed: int):
        self.network, self.spec, self.seed = network, spec, seed
        self.steps_per_epoch = -(-len(split) // spec["batch_size"])
        self.steps, self.velocity = round(spec["epochs"] * self.steps_per_epoch), np.zeros(N)

    def step(self, iteration: int) -> tuple[float, float]:
        events.happens("evaluate")
        theta, rate = np.float64(self.network.theta), self.spec["learning_rate"]
        noise = np.random.default_rng([self.seed, iteration]).standard_normal(N)
        self.velocity = 0.9 * self.velocity + slope(theta) + 0.1 * noise
        self.network.theta = np.float32(theta - rate * self.velocity)
        return loss(theta), rate

    def state(self) -> bytes:
        return self.network.theta.tobytes() + self.velocity.tobytes()

    def load_state(self, state: bytes) -> None:
        self.network.theta = np.frombuffer(state, np.float32, N).copy()
        self.velocity = np.frombuffer(state, np.float64, N, 4 * N).copy()


def build_module(_spec: dict, seed: int) -> np.ndarray:
    """Return where training begins."""
    return np.float32(MINIMUM + 2 * np.random.default_rng(seed).standard_normal(N))


def least_product_bytes(*_: object) -> int:
    """Products take no memory to speak of."""
    return 0


def read_checkpoint(file: Path, network: FlatNetwork) -> dict[str, float]:
    """Load what NumPy saved, in which there are no numbers besides."""
    network.theta = np.load(file)
    return {}


def set_up(*_: object, **_how: object) -> SimpleNamespace:
    return SimpleNamespace(description="closed form")


def build_loss(_spec: dict) -> None:
    """There is one loss only."""
