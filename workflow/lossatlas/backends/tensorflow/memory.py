"""How much memory a traced graph takes, from its shapes, without running it."""

import tensorflow as tf

_ALIASES = {"Identity", "Reshape", "StopGradient", "Squeeze", "ExpandDims", "EnsureShape", "PreventGradient"}
"""Operations whose output is the memory of their first input."""

_GIVEN = {"Placeholder", "Const", "ReadVariableOp"}
"""Operations whose output is there anyway."""


_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If", "StatelessIf", "Case"}
"""Operations that call functions of their own: loops, branches."""


def bodies(graph: tf.Graph) -> dict:
    """Return the functions that a graph's loops and branches call, as protocol buffers by name."""
    if not any(operation.type in _CALLS for operation in graph.get_operations()):
        return {}
    return {function.signature.name: function for function in graph.as_graph_def().library.function}


def peak_bytes(graph: tf.Graph) -> int:
    """Return the bytes that the tensors of a graph have at the peak, when operations run in the order of tracing.

    A tensor is freed after its last use; arguments and variables are not counted.
    """
    operations = graph.get_operations()
    source: dict[str, str] = {}
    last: dict[str, int] = {}
    for place, operation in enumerate(operations):
        for tensor in operation.inputs:
            last[source.get(tensor.name, tensor.name)] = place
        if operation.type in _ALIASES and operation.inputs:
            first = operation.inputs[0].name
            source[operation.outputs[0].name] = source.get(first, first)
    freed: dict[int, int] = {}
    alive = peak = 0
    for place, operation in enumerate(operations):
        made = [] if operation.type in _GIVEN | _ALIASES else operation.outputs
        for tensor in made:
            size = (tensor.shape.num_elements() or 0) * tensor.dtype.size
            alive += size
            end = last.get(tensor.name, place)
            freed[end] = freed.get(end, 0) + size
        peak = max(peak, alive)
        alive -= freed.pop(place, 0)
    return peak
