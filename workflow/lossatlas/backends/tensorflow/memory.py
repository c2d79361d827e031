"""How much memory a traced graph takes, from its shapes, without running it."""

import tensorflow as tf

_ALIASES = {"Identity", "Reshape", "StopGradient", "Squeeze", "ExpandDims", "EnsureShape", "PreventGradient"}
"""Operations whose output is the memory of their first input."""

_GIVEN = {"Placeholder", "Const", "ReadVariableOp"}
"""Operations whose output is there anyway."""


_HELD = {"TensorListPopBack", "TensorListGetItem", "Placeholder"}
"""Operations whose output, put on a list, is memory that was there before the round."""

_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If", "StatelessIf", "Case"}
"""Operations that call functions of their own: loops, branches."""


def bodies(graph: tf.Graph) -> dict:
    """Return the functions that a graph's loops and branches call, as protocol buffers by name."""
    if not any(operation.type in _CALLS for operation in graph.get_operations()):
        return {}
    return {function.signature.name: function for function in graph.as_graph_def().library.function}


def peak_bytes(graph: tf.Graph) -> int:
    """Return the bytes that the tensors of a graph have at the peak, when operations run in the order of tracing.

    A tensor is freed after its last use; arguments and variables are not counted. What loops keep of each round, for
    derivatives, is counted as if it were there all the time.
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
    return peak + _rounds(graph) * _kept_each_round(graph, set())


def _rounds(graph: tf.Graph) -> int:
    """Return how often loops go round at most: the length of the lists that they go through, such as sequences."""
    lists = [operation for operation in graph.get_operations() if operation.type == "TensorListFromTensor"]
    return max((operation.inputs[0].shape[0] or 1 for operation in lists), default=1)


def _kept_each_round(graph: tf.Graph, seen: set[str]) -> int:
    """Return the bytes that the bodies of a graph's loops put on lists in each round; ``seen`` names those counted."""
    total = 0
    for operation in graph.get_operations():
        pushed = operation.inputs[1] if operation.type == "TensorListPushBack" else None
        if pushed is not None and pushed.op.type not in _HELD:
            total += (pushed.shape.num_elements() or 0) * pushed.dtype.size
        for key in ("f", "body", "then_branch", "else_branch") if operation.type in _CALLS else ():
            name = operation.node_def.attr[key].func.name
            if name and name not in seen:
                seen.add(name)
                total += _kept_each_round(graph._get_function(name).graph, seen)
    return total
