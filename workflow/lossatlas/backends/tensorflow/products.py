"""Curvature of a mean loss along vectors, as graphs that are traced once for each shape.

Three matrices, with f the network's outputs, l the loss of outputs, J = df/dtheta (Schraudolph 2002):
``hessian`` H = d2 l(f(theta)), ``ggn`` the generalised Gauss-Newton matrix J' (d2 l/df2) J, and ``residual`` H - GGN,
which comes from the curvature of the network itself. Any of them may be restricted to some parameters.

A graph takes theta and the vector as arguments, so that it serves every theta.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from lossatlas.backends.tensorflow.batchnorm import statistics
from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.memory import bodies
from lossatlas.backends.tensorflow.network import FlatNetwork, cut, join
from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout
from lossatlas.problem.checks import OPERATORS, check_one_of, first_line

PRODUCT_STRATEGIES = ("nested", "forward")
"""Derivative of the gradient along a vector: a second backward pass, or a forward pass through both. XLA is not among
them: on a CPU it took four times as long, and chose other places where maxima tie."""

_TAKEN_FOR_CONSTANT = {
    "ResizeBilinearGrad",
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}
"""Operations of gradients that TensorFlow registers as not differentiable, without an error."""

_LOOPS = "; forward derivatives do not pass through loops, such as those of recurrent layers: choose strategy 'nested'"

Tensors = list[tf.Tensor]
_ZERO = tf.UnconnectedGradients.ZERO


class CurvatureMatrix:
    """One of the three matrices of a network's loss, restricted to the parameters ``chosen``.

    Raises:
        LossAtlasError: there is no such operator.
    """

    def __init__(
        self, network: FlatNetwork, loss: Callable, operator: str, chosen: ParameterLayout, batchnorm: str = "frozen"
    ):
        check_one_of("operator", operator, OPERATORS)
        self.network, self.loss, self.operator, self.chosen = network, loss, operator, chosen
        self.batchnorm = batchnorm
        names = {slot.name for slot in chosen}
        self._places = [place for place, slot in enumerate(network.layout) if slot.name in names]
        self._shapes = [slot.shape for slot in chosen]
        self.gradient = Graphs(self._gradient)
        self.products = {name: Graphs(getattr(self, f"_{name}")) for name in PRODUCT_STRATEGIES}

    def product(
        self, strategy: str, theta: tf.Tensor, buffers: tf.Tensor, piece: tuple[tf.Tensor, tf.Tensor], v: tf.Tensor
    ) -> tf.Tensor:
        """Return the product with one vector over the mean of one piece of samples.

        Raises:
            LossAtlasError: an operation of the network or the loss has no second derivative.
        """
        with _second_derivatives(strategy), _plain_kernels(self.network):
            return self.products[strategy](theta, buffers, *piece, v)

    def graph(
        self, strategy: str, theta: tf.Tensor, buffers: tf.Tensor, piece: tuple[tf.Tensor, tf.Tensor]
    ) -> tf.Graph:
        """Return the graph by which ``product`` computes.

        Raises:
            LossAtlasError: an operation of the network or the loss has no second derivative.
        """
        v = tf.TensorSpec([self.chosen.size], theta.dtype)
        with _second_derivatives(strategy), _plain_kernels(self.network):
            graph = self.products[strategy].of(theta, buffers, *piece, v).graph
        silent = next((found for found in operations(graph) if found in _TAKEN_FOR_CONSTANT), None)
        if silent:
            raise _no_second_derivative(f"it takes that of {silent} for zero")
        return graph

    def _gradient(self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor) -> tuple:
        """Return loss and gradient of one chunk's mean."""
        at, outputs = self.point(theta, buffers, inputs)
        with tf.GradientTape() as tape:
            tape.watch(at)
            value = self.loss(outputs(at), targets)
        return value, join(dense(tape, value, at))

    def _nested(
        self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor, v: tf.Tensor
    ) -> tf.Tensor:
        """Return the product with v by nested tapes."""
        at, outputs = self.point(theta, buffers, inputs)
        along = cut(v, self._shapes)
        product = tf.zeros_like(v)
        if self.operator != "ggn":
            with tf.GradientTape() as outer:
                outer.watch(at)
                with tf.GradientTape() as inner:
                    inner.watch(at)
                    value = self.loss(outputs(at), targets)
                slope = dense(inner, value, at)
            product = join(dense(outer, slope, at, along))
        if self.operator == "hessian":
            return product
        with tf.GradientTape() as outer:
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(at)
                values = _one(outputs(at))
            dummy = tf.zeros_like(values)
            outer.watch(dummy)
            pulled = dense(inner, values, at, dummy)
        # J v, since J' u is linear in u.
        pushed = outer.gradient(pulled, dummy, output_gradients=along, unconnected_gradients=_ZERO)
        return self._with_gauss_newton(product, values, targets, pushed, inner, at)

    def _forward(
        self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor, targets: tf.Tensor, v: tf.Tensor
    ) -> tf.Tensor:
        """Return the product with v by forward derivatives of the gradient."""
        at, outputs = self.point(theta, buffers, inputs)
        along = cut(v, self._shapes)
        with tf.autodiff.ForwardAccumulator(at, along) as accumulator:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(at)
                values = outputs(at)
                value = self.loss(values, targets)
            if self.operator != "ggn":
                slope = dense(tape, value, at)
        product = tf.zeros_like(v)
        if self.operator != "ggn":
            product = join(accumulator.jvp(slope, unconnected_gradients=_ZERO))
        if self.operator == "hessian":
            return product
        pushed = accumulator.jvp(_one(values), unconnected_gradients=_ZERO)
        return self._with_gauss_newton(product, values, targets, pushed, tape, at)

    def _with_gauss_newton(
        self, hessian: tf.Tensor, values: tf.Tensor, targets: tf.Tensor, pushed: tf.Tensor, tape: Any, at: Tensors
    ) -> tf.Tensor:
        """Return the Gauss-Newton product from J v, or what it leaves of the Hessian's; ``tape`` saw ``values``."""
        values_alone = tf.stop_gradient(values)
        with tf.GradientTape() as outer:
            outer.watch(values_alone)
            with tf.GradientTape() as inner:
                inner.watch(values_alone)
                value = self.loss(values_alone, targets)
            slope = inner.gradient(value, values_alone, unconnected_gradients=_ZERO)
        curved = outer.gradient(slope, values_alone, output_gradients=pushed, unconnected_gradients=_ZERO)
        gauss_newton = join(dense(tape, values, at, curved))
        return gauss_newton if self.operator == "ggn" else hessian - gauss_newton

    def point(
        self, theta: tf.Tensor, buffers: tf.Tensor, inputs: tf.Tensor
    ) -> tuple[Tensors, Callable[[Tensors], tf.Tensor]]:
        """Return the chosen parameters of theta, and the network's outputs as a function of them."""
        parts = self.network.parts(theta)

        def outputs(at: Tensors) -> tf.Tensor:
            whole = list(parts)
            for place, part in zip(self._places, at, strict=True):
                whole[place] = part
            with statistics(self.network.model, self.batchnorm):
                return self.network.outputs(whole, buffers, inputs)

        return [parts[place] for place in self._places], outputs


def dense(
    tape: tf.GradientTape, target: tf.Tensor | Tensors, at: Tensors, output_gradients: tf.Tensor | Tensors | None = None
) -> Tensors:
    """Return the gradient as whole tensors, where TensorFlow keeps that of looked-up rows (embeddings) as such."""
    slope = tape.gradient(target, at, output_gradients=output_gradients, unconnected_gradients=_ZERO)
    return [tf.convert_to_tensor(part) for part in slope]


def operations(graph: tf.Graph) -> Iterator[str]:
    """Yield the types of a graph's operations, those in the bodies of its loops and branches too."""
    yield from (operation.type for operation in graph.get_operations())
    for function in bodies(graph).values():
        yield from (node.op for node in function.node_def)


def _one(outputs: Any) -> tf.Tensor:
    if not tf.is_tensor(outputs):
        raise LossAtlasError(
            f"operator: 'ggn' and 'residual' are for models with one output; this one returns {type(outputs).__name__}"
        )
    return outputs


@contextmanager
def _plain_kernels(network: FlatNetwork) -> Iterator[None]:
    """Let recurrent layers compute step by step for a while: cuDNN's kernels have no second derivative."""
    layers = [layer for layer in network.model._flatten_layers() if getattr(layer, "use_cudnn", False)]
    before = [layer.use_cudnn for layer in layers]
    for layer in layers:
        object.__setattr__(layer, "use_cudnn", False)
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            object.__setattr__(layer, "use_cudnn", value)


@contextmanager
def _second_derivatives(strategy: str) -> Iterator[None]:
    """Say in one line which operation has no second derivative, or that a model cannot be traced by a strategy."""
    try:
        yield
    except (LossAtlasError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # AutoGraph puts errors into others
        said = next((line for line in str(error).splitlines() if "gradient registry has no entry" in line), None)
        if said is None and isinstance(error, NotImplementedError | tf.errors.UnimplementedError):
            said = str(error).splitlines()[0]
        if said is None:
            raise LossAtlasError(
                f"Hessian products: strategy {strategy!r} fails in this model with {first_line(error)}"
                + (_LOOPS if "variant" in str(error) else "")
            ) from error
        raise _no_second_derivative(said.strip()) from error


def _no_second_derivative(said: str) -> LossAtlasError:
    return LossAtlasError(
        f"Hessian products: an operation of the model or the loss has no second derivative in TensorFlow ({said}); "
        "write it with other operations"
    )
