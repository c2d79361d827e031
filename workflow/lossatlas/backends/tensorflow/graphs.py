"""Functions of tensors as graphs, traced once for each combination of shapes."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Graphs:
    """A function of tensors; ``traces`` counts how often it was traced."""

    def __init__(self, function: Callable):
        def traced(*tensors: tf.Tensor) -> Any:
            self.traces += 1
            return function(*tensors)

        self.traces = 0
        self._function = tf.function(traced)
        self._made: dict[tuple, Any] = {}

    def __call__(self, *tensors: tf.Tensor) -> Any:
        return self.of(*tensors)(*tensors)

    def of(self, *tensors: tf.Tensor | tf.TensorSpec) -> Any:
        """Return the graph for tensors of these shapes."""
        key = tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
        if key not in self._made:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
            self._made[key] = self._function.get_concrete_function(*specs)
        return self._made[key]
