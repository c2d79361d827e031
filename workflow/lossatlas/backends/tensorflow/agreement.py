"""Whether derivatives are what they are taken for, measured before they are used.

Products by a strategy are compared with plain double backward: two nested tapes, eager, nothing traced or kept. Where
TensorFlow's own derivatives are wrong both are wrong alike, so that differences of what is differentiated are the
referee: of the loss for its gradient, of the gradient for the products; in float64, also for a model in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from lossatlas.backends.tensorflow.network import FlatNetwork, cut, join, to_numpy
from lossatlas.backends.tensorflow.points import FLOOR, MULTIPLE, moved
from lossatlas.backends.tensorflow.products import CurvatureMatrix, dense
from lossatlas.errors import LossAtlasError
from lossatlas.problem.agreement import ProductAgreement
from lossatlas.problem.autotune import Disagreement
from lossatlas.problem.hessian import Piece

VECTORS, SAMPLES = 3, 4
"""Random vectors that products are compared for, and samples of which differences are taken."""

STEPS = {"float64": (1e-4, 1e-6, 1e-8), "float32": (3e-2, 1e-2, 3e-3)}
"""Steps of differences, as shares of the norm of theta. Small ones cross few kinks, large ones round little."""

ALLOWED = {"float64": 1e-3, "float32": 5e-2}
"""Relative error of a derivative, by central differences, that is not yet an error of the derivative."""

ROUNDING = 64
"""Differences of numbers are wrong by so many units in their last place, divided by the step."""


def double_backward(matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece, vectors: list) -> list:
    """Return the products of a curvature matrix over a piece of samples with some vectors, each (N,)."""
    at, outputs = matrix.point(theta, buffers, piece[0])
    shapes = [part.shape for part in at]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(at)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(at)
            values = outputs(at)
            value = matrix.loss(values, piece[1])
        slope = dense(inner, value, at)
    hessian = [join(dense(outer, slope, at, cut(v, shapes))) for v in vectors] if matrix.operator != "ggn" else []
    if matrix.operator == "hessian":
        return hessian
    with tf.GradientTape(persistent=True) as linear:
        weights = tf.zeros_like(values)
        linear.watch(weights)
        with tf.GradientTape() as tape:
            tape.watch(at)
            again = outputs(at)
        pulled = dense(tape, again, at, weights)
    gauss_newton = []
    for v in vectors:
        (pushed,) = dense(linear, pulled, [weights], cut(v, shapes))
        (curved,) = _of_loss(matrix.loss, values, piece[1], pushed)
        gauss_newton.append(join(dense(inner, values, at, curved)))
    return gauss_newton if matrix.operator == "ggn" else [a - b for a, b in zip(hessian, gauss_newton, strict=True)]


def _of_loss(loss: Callable, values: tf.Tensor, targets: tf.Tensor, v: tf.Tensor) -> list[tf.Tensor]:
    values = tf.stop_gradient(values)
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as inner:
            inner.watch(values)
            value = loss(values, targets)
        slope = dense(inner, value, [values])
    return dense(outer, slope, [values], [v])


class Reference:
    """Double backward and central differences at one point, with which strategies are compared.

    Args:
        matrix: whose products.
        parts: into how many parts a piece of samples is cut for double backward, which keeps more than a graph does.
    """

    def __init__(self, matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, parts: int):
        self.matrix, self.theta, self.buffers, self.parts = matrix, theta, buffers, parts
        vectors = np.random.default_rng(0).standard_normal((VECTORS, matrix.chosen.size))
        self.vectors = [matrix.network.vector(v) for v in vectors]
        self._plain: dict[int, np.ndarray] = {}
        self._differences: float | None = None

    def compare(self, strategy: str, piece: Piece) -> ProductAgreement | None:
        """Return how well a strategy's products over a piece agree with double backward.

        Nothing where these are not finite; then there is nothing to agree with.

        Raises:
            Disagreement: they do not, to measured rounding, or are not symmetric.
            LossAtlasError: derivatives are wrong whichever way; the message names the layer.
        """
        plain, found = self._double_backward(piece), self._products(strategy, self.theta, piece, self.vectors)
        if not np.isfinite(plain).all():
            return None
        if self._differences is None:
            self._differences = referee(self.matrix, self.theta, self.buffers, piece)
        size = np.linalg.norm(plain, axis=1).max() or 1.0
        difference = np.linalg.norm(found - plain, axis=1).max() / size
        near = moved(piece[0]), piece[1]
        again = self._products(strategy, moved(self.theta), near, [moved(self.vectors[0])])
        rounding = np.linalg.norm(again[0] - found[0]) / size
        forms = found @ np.stack([to_numpy(v) for v in self.vectors]).astype(np.float64).T
        asymmetry = np.abs(forms - forms.T).max() / size
        allowed = MULTIPLE * rounding + FLOOR * np.finfo(self.theta.dtype.as_numpy_dtype).eps
        for gap, words in ((difference, "differ from double backward"), (asymmetry, "are not symmetric")):
            if not gap <= allowed:
                raise Disagreement(
                    f"Hessian products: those of strategy {strategy!r} {words} by {gap:.1e} of their size, where "
                    f"rounding is {rounding:.1e}"
                )
        counts = len(piece[0]), len(self.vectors)
        measured = float(difference), float(rounding), float(asymmetry)
        return ProductAgreement("double backward", *counts, *measured, self._differences)

    def _products(self, strategy: str, theta: tf.Tensor, piece: Piece, vectors: list[tf.Tensor]) -> np.ndarray:
        products = [self.matrix.product(strategy, theta, self.buffers, piece, v) for v in vectors]
        return np.stack([to_numpy(product) for product in products]).astype(np.float64)

    def _double_backward(self, piece: Piece) -> np.ndarray:
        size = len(piece[0])
        if size not in self._plain:
            cuts = np.linspace(0, size, min(self.parts, size) + 1).astype(int)
            total = np.zeros((len(self.vectors), self.matrix.chosen.size))
            for a, b in pairwise(cuts):
                part = piece[0][a:b], piece[1][a:b]
                found = double_backward(self.matrix, self.theta, self.buffers, part, self.vectors)
                total += np.stack([to_numpy(row) for row in found]) * ((b - a) / size)
            self._plain[size] = total
        return self._plain[size]


class Differences(NamedTuple):
    """A derivative along a vector and what central differences say; ``wrong`` if they say another thing for sure."""

    error: float
    wrong: bool


def referee(matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece) -> float:
    """Return the relative difference of a product by double backward from differences of the gradient.

    Raises:
        LossAtlasError: the gradient is not the derivative of the loss, or the product not that of the gradient.
    """
    few = piece if matrix.batchnorm == "batch" else (piece[0][:SAMPLES], piece[1][:SAMPLES])
    try:
        with in_float64(matrix.network, theta, buffers, few) as (theta64, buffers64, few64):
            return _judged(matrix, theta64, buffers64, few64)
    except LossAtlasError:
        raise
    except Exception:  # a layer or a loss of the user's own that insists on its precision
        return _judged(matrix, theta, buffers, few)


def _judged(matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece) -> float:
    seen = Seen(matrix, theta, buffers, piece)
    vector = np.random.default_rng(1).standard_normal(matrix.chosen.size)
    slope, product = seen.along(vector)
    if slope.wrong:
        raise LossAtlasError(
            "Hessian products: the gradient that TensorFlow gives is not the derivative of the loss (off by "
            f"{slope.error:.1e}), beginning with the parameters of {seen.layer(0)!r}: is there a stop_gradient or a "
            "gradient of its own in or behind it?"
        )
    if product.wrong:
        raise LossAtlasError(
            "Hessian products: second derivatives in TensorFlow are not those of the gradient (off by "
            f"{product.error:.1e}), beginning with the parameters of {seen.layer(1)!r}: an operation in or behind it "
            "has a wrong one; write it with other operations"
        )
    return product.error


class Seen:
    """Loss and gradient over a piece of samples, differentiated by differences along vectors."""

    def __init__(self, matrix: CurvatureMatrix, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece):
        self.matrix, self.theta, self.buffers, self.piece = matrix, theta, buffers, piece
        self.at = matrix.point(theta, buffers, piece[0])[0]
        self.dtype = theta.dtype.name
        self.scale = float(tf.norm(join(self.at))) or 1.0

    def along(self, vector: np.ndarray) -> tuple[Differences, Differences]:
        """Return how the gradient agrees with the loss, and products with the gradient, along a vector (N,)."""
        vector = vector / np.linalg.norm(vector)
        v, operator = tf.constant(vector, self.theta.dtype), self.matrix.operator
        (found,) = double_backward(self.matrix, self.theta, self.buffers, self.piece, [v])
        value, gradient, values = self._at(vector, 0.0)
        slopes, products, noises = [], [], []
        for step in (self.scale * share for share in STEPS[self.dtype]):
            (above, up, higher), (below, down, lower) = self._at(vector, step), self._at(vector, -step)
            slopes.append(np.atleast_1d((above - below) / (2 * step)))
            product = (up - down) / (2 * step) if operator != "ggn" else np.zeros_like(up)
            if operator != "hessian":
                gauss_newton = self._gauss_newton(values, (higher - lower) / (2 * step), step)
                product = gauss_newton if operator == "ggn" else product - gauss_newton
            products.append(product)
            noises.append(ROUNDING * np.finfo(self.dtype).eps / step)
        of_loss = self._compared(np.atleast_1d(gradient @ vector), slopes, abs(value) * np.array(noises))
        return of_loss, self._compared(to_numpy(found), products, np.linalg.norm(gradient) * np.array(noises))

    def layer(self, place: int) -> str:
        """Return the last layer along whose parameters ``along`` finds a wrong derivative in that place."""
        layout = self.matrix.chosen
        for slot in reversed(layout.slots):
            vector = np.zeros(layout.size)
            vector[slot.slice] = np.random.default_rng(2).standard_normal(slot.size)
            if self.along(vector)[place].wrong:
                return slot.name.rpartition(".")[0]
        return layout.slots[-1].name.rpartition(".")[0]

    def _compared(self, exact: np.ndarray, found: list[np.ndarray], noises: np.ndarray) -> Differences:
        """Judge by the best step. Differences that contradict each other, as kinks make them, accuse nobody."""
        size = max(np.linalg.norm(exact), min(map(np.linalg.norm, found)))
        gaps = np.array([np.linalg.norm(each - exact) for each in found])
        apart = min(np.linalg.norm(a - b) for a, b in pairwise(found))
        wrong = (gaps > ALLOWED[self.dtype] * size + noises).all() and apart < 0.1 * gaps.min()
        return Differences(float(gaps.min() / size) if size else 0.0, bool(wrong))

    def _at(self, vector: np.ndarray, step: float) -> tuple[float, np.ndarray, tf.Tensor]:
        """Return loss, gradient and outputs at theta + step vector."""
        moved = cut(tf.constant(step * vector, self.theta.dtype), [part.shape for part in self.at])
        at = [part + change for part, change in zip(self.at, moved, strict=True)]
        _, outputs = self.matrix.point(self.theta, self.buffers, self.piece[0])
        with tf.GradientTape() as tape:
            tape.watch(at)
            values = outputs(at)
            value = self.matrix.loss(values, self.piece[1])
        return float(value), join(dense(tape, value, at)).numpy().astype(np.float64), values

    def _gauss_newton(self, values: tf.Tensor, pushed: tf.Tensor, step: float) -> np.ndarray:
        """Return J' l'' J v from J v, with l'' by differences."""

        def slope(moved: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(moved)
                value = self.matrix.loss(moved, self.piece[1])
            return tape.gradient(value, moved)

        curved = (slope(values + step * pushed) - slope(values - step * pushed)) / (2 * step)
        _, outputs = self.matrix.point(self.theta, self.buffers, self.piece[0])
        with tf.GradientTape() as tape:
            tape.watch(self.at)
            again = outputs(self.at)
        return join(dense(tape, again, self.at, curved)).numpy().astype(np.float64)


@contextmanager
def in_float64(network: FlatNetwork, theta: tf.Tensor, buffers: tf.Tensor, piece: Piece) -> Iterator[tuple]:
    """Let a model compute in float64 for a while; yield the given numbers in it."""
    layers, variables = network.model._flatten_layers(), network.model.variables
    changed = [(layer, "_dtype_policy", keras.DTypePolicy("float64")) for layer in layers]
    changed += [(v, "_dtype", "float64") for v in variables if tf.as_dtype(v.dtype).is_floating]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    floatx = keras.config.floatx()
    try:
        keras.config.set_floatx("float64")
        _set(changed)
        given = (theta, buffers, *piece)
        doubles = [tf.cast(t, tf.float64) if t.dtype.is_floating else t for t in given]
        yield doubles[0], doubles[1], (doubles[2], doubles[3])
    finally:
        _set(before)
        keras.config.set_floatx(floatx)


def _set(attributes: list[tuple]) -> None:
    for owner, name, value in attributes:
        object.__setattr__(owner, name, value)
