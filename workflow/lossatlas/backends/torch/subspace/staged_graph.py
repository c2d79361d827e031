"""A network's outputs as a graph in stages, so that at many points of a plane nothing is computed twice.

Along theta = center + sum_k c_k direction_k, what a first layer makes of the samples is affine in the coefficients:
conv(x; theta) = conv(x; center) + sum_k c_k conv(x; direction_k). So is all that follows up to the first operation that
is not linear in theta, whichever layers it comes from. Those values are computed once for the center and once for each
direction. BatchNorm with frozen statistics after a convolution or a dense layer is folded into its weights, once per
point. Max-pooling without overlap becomes maxima of slices, which are vectorised and, being slices, stay affine.
"""

import copy
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.tracing.fusion import fuse
from lossatlas.backends.torch.tracing.graphs import part

_aten = torch.ops.aten
_LINEAR = {  # in their first argument
    *(_aten.slice, _aten.view, _aten.reshape, _aten._unsafe_view, _aten.permute, _aten.transpose, _aten.t),
    *(_aten.expand, _aten.squeeze, _aten.unsqueeze, _aten.select, _aten.clone, _aten.alias, _aten.cat, _aten.stack),
    *(_aten.split, _aten.split_with_sizes, _aten.neg, _aten.mean, _aten.sum, _aten.avg_pool2d, _aten.constant_pad_nd),
    *(_aten.embedding, operator.getitem),
}
_BILINEAR = {  # in these two arguments; a third one is added
    _aten.convolution: (0, 1),
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.mul: (0, 1),
    _aten.addmm: (1, 2),
    _aten.baddbmm: (1, 2),
}
_ATTENTION = (  # these draw random numbers for dropout only
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_fused_attention_overrideable.default,
)
_FRESH = (_aten.convolution.default, _aten.addmm.default, _aten.mm.default, _aten.maximum.default, _aten.add.Tensor)
_NORMS = (_aten.native_batch_norm.default, _aten._native_batch_norm_legit.default)
_INFERENCE_NORM = _aten._native_batch_norm_legit_no_training.default


class Stages(NamedTuple):
    """Graphs that together make a network's outputs; all but ``rest`` return tuples.

    ``point(theta, buffers, inputs)`` does not read the inputs, ``samples(theta, buffers, inputs)`` nothing but them,
    ``affine(theta, buffers, inputs)`` is affine in theta, and ``rest(*point, *samples, *affine)`` makes the outputs,
    ``size`` numbers.
    """

    point: fx.GraphModule
    samples: fx.GraphModule
    affine: fx.GraphModule
    rest: fx.GraphModule
    has_affine: bool
    size: int


def trace(network: FlatNetwork, inputs: Tensor) -> fx.GraphModule:
    """Return the network's outputs as a graph of (theta, buffers, inputs), for inputs of this shape.

    Nothing is known of the values while tracing, so a network whose course depends on them raises here.

    Raises:
        NotImplementedError: the network makes a tensor of its own, writes into its parameters, buffers or samples,
            draws random numbers, or returns no single tensor.
    """
    module = _twin(network.module.eval())

    def outputs(theta: Tensor, buffers: Tensor, inputs: Tensor) -> Tensor:
        parameters = {slot.name: theta[slot.slice].view(slot.shape) for slot in network.layout}
        return functional_call(module, (parameters, network.unflatten_buffers(buffers)), (inputs,))

    buffers = network.vector(network.buffers())
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        given = [mode.from_tensor(tensor) for tensor in (network.theta, buffers, inputs)]
        joint = make_fx(functionalize(outputs))(*given)
        if _writing(joint.graph):  # recurrent cells write in place inside of operations that only now are taken apart
            joint = make_fx(functionalize(joint))(*given)
    _check_pure(joint.graph)
    if not isinstance(_outputs(joint), fx.Node):
        raise NotImplementedError("the network returns no single tensor")
    constants = (getattr(joint, node.target) for node in joint.graph.nodes if node.op == "get_attr")
    if any(isinstance(constant, FakeTensor) for constant in constants):
        raise NotImplementedError("the network makes a tensor of its own")
    for node in joint.graph.nodes:
        if node.target in (_aten.view.default, _aten._unsafe_view.default):
            node.target = _aten.reshape.default  # a tensor that was rewritten may lie otherwise in memory
    return joint


def _twin(module: nn.Module) -> nn.Module:
    """Return a module that shares all parameters and buffers, but keeps for itself what it remembers of a call."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _writing(graph: fx.Graph) -> list[fx.Node]:
    """Return the operations that write into a tensor that is there already."""
    schemas = ((node, getattr(node.target, "_schema", None)) for node in graph.nodes)
    return [node for node, schema in schemas if schema is not None and schema.is_mutable]


def _check_pure(graph: fx.Graph) -> None:
    """Refuse what may not be computed once for several points, or in another order.

    Raises:
        NotImplementedError: the network writes into its parameters, buffers or samples, or draws random numbers.
    """
    for node in _writing(graph):
        raise NotImplementedError(f"the network writes into its parameters, buffers or samples by {node.target}")
    for node in graph.nodes:
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if seeded and not (node.target in _ATTENTION and _argument(node, "dropout_p") == 0.0):
            raise NotImplementedError(f"the network draws random numbers by {node.target}")


def _argument(node: fx.Node, name: str) -> object:
    """Return an argument of an operation by name, its default where it is not given."""
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            given = node.args[place] if place < len(node.args) else argument.default_value
            return node.kwargs.get(name, given)
    raise KeyError(name)


def stages(joint: fx.GraphModule, cached: bool, slices: bool, fused: bool) -> Stages:
    """Return the graph of ``trace``, rewritten, in stages.

    Args:
        cached: whether there is to be an affine stage.
        slices: whether max-pooling becomes maxima of slices, which pays on a CPU.
        fused: whether convolutions also add and rectify, see ``fusion``; a compiler does that by itself.
    """
    joint, _ = part(joint, _given(joint.graph), set(joint.graph.nodes), _outputs(joint))  # a copy
    size = _outputs(joint).meta["tensor_meta"].shape.numel()  # nodes that are put in say nothing of their shapes
    graph = joint.graph  # without dead code, such as places of maxima that nobody asks for
    affine = _affine(graph) if cached else set()
    _fold(graph, affine)
    if slices:
        _slice_pools(graph, affine)
    if fused:
        fuse(graph, affine)
    graph.eliminate_dead_code()
    return _divide(joint, _affine(graph) if cached else set(), size)


def _given(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _after(graph: fx.Graph, start: fx.Node) -> set[fx.Node]:
    """Return all nodes that depend on one, itself included."""
    found = {start}
    for node in graph.nodes:
        if found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _before(graph: fx.Graph, ends: list[fx.Node]) -> set[fx.Node]:
    """Return all nodes that some depend on, themselves included."""
    found = set(ends)
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.all_input_nodes)
    return found


def _affine(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that depend on the inputs and affinely on theta."""
    theta, _, inputs = _given(graph)
    varying, affine = _after(graph, theta), {theta}
    for node in graph.nodes:
        sources = varying.intersection(node.all_input_nodes)
        known = set().union(*map(_dtypes, (node, *sources)))  # reading floats as integers, or rounding, is not linear
        if node.op == "call_function" and sources and sources <= affine and len(known) <= 1:
            affine.update({node} if _is_linear(node, varying) else ())
    return affine & _after(graph, inputs)


def _dtypes(node: fx.Node) -> set[torch.dtype]:
    """Return the types of a node's results, of those that are known."""
    return {meta.dtype for meta in tree_leaves(node.meta.get("tensor_meta"), _is_meta) if _is_meta(meta)}


def _is_meta(value: object) -> bool:
    return hasattr(value, "dtype")


def _is_linear(node: fx.Node, varying: set[fx.Node]) -> bool:
    """Return whether a node is linear in those of its arguments that vary."""
    kind = getattr(node.target, "overloadpacket", node.target)
    if kind in (_aten.add, _aten.sub):
        return True
    if kind in _BILINEAR:
        return not all(node.args[place] in varying for place in _BILINEAR[kind])
    if kind is _aten.div:
        return node.args[1] not in varying and not node.kwargs
    return kind in _LINEAR and not varying.intersection(a for a in node.args[1:] if isinstance(a, fx.Node))


def _divide(joint: fx.GraphModule, affine: set[fx.Node], size: int) -> Stages:
    graph, given = joint.graph, _given(joint.graph)
    of_theta, of_inputs = _after(graph, given[0]), _after(graph, given[2])
    output = next(node for node in graph.nodes if node.op == "output")
    rest = {node for node in of_theta & of_inputs if node not in affine and node.op != "output"}
    taken = dict.fromkeys(source for node in graph.nodes if node in rest for source in node.all_input_nodes)
    used = [node for node in taken | dict.fromkeys(output.all_input_nodes) if node not in rest]
    ends = {
        "point": [node for node in used if node not in of_inputs],
        "samples": [node for node in used if node in of_inputs and node not in of_theta],
        "affine": [node for node in used if node in affine],
    }
    parts = {name: part(joint, given, _before(graph, nodes), nodes)[0] for name, nodes in ends.items()}
    last, _ = part(joint, [node for nodes in ends.values() for node in nodes], rest, output.args[0])
    _reuse(last.graph)
    last.recompile()
    return Stages(**parts, rest=last, has_affine=bool(ends["affine"]), size=size)


def _reuse(graph: fx.Graph) -> None:
    """Let ReLU and sums write into results that nothing else reads."""
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.target not in _FRESH or len(source.users) > 1:
            continue
        if node.target is _aten.relu.default:
            node.target = _aten.relu_.default
        elif node.target is _aten.add.Tensor and _shape(source) == _shape(node) is not None:
            node.target = _aten.add_.Tensor


def _shape(node: fx.Node) -> tuple | None:
    meta = node.meta.get("tensor_meta")
    return (tuple(meta.shape), meta.dtype) if hasattr(meta, "shape") else None


def _fold(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Fold BatchNorm into the convolution or dense layer before it, unless that is one of ``kept``."""
    inputs = _after(graph, _given(graph)[2])
    for node in list(graph.nodes):
        frozen = node.target in _NORMS and node.args[5] is False and node.args[3] is not None
        if not (frozen or node.target is _INFERENCE_NORM):
            continue
        layer, (weight, bias, mean, variance), epsilon = node.args[0], node.args[1:5], node.args[-1]
        foldable = layer.target in (_aten.convolution.default, _aten.addmm.default, _aten.mm.default)
        if not foldable or layer in kept or len(layer.users) > 1 or layer.kwargs or node.kwargs:
            continue
        if inputs.intersection(_weights(layer)):
            continue
        if layer.target is _aten.convolution.default and layer.args[6]:
            continue  # transposed: filters lie on another axis
        with graph.inserting_before(node):
            made = _folded(graph, layer, weight, bias, mean, variance, epsilon)
        for user in list(node.users):
            if user.target is operator.getitem and user.args[1] == 0:
                made.meta = dict(user.meta)
                user.replace_all_uses_with(made)


def _weights(layer: fx.Node) -> list[fx.Node]:
    """Return weight and bias of a convolution or dense layer, where there are any."""
    places = {_aten.convolution.default: (1, 2), _aten.addmm.default: (0, 2), _aten.mm.default: (1,)}
    return [layer.args[k] for k in places[layer.target] if layer.args[k] is not None]


def _folded(
    graph: fx.Graph, layer: fx.Node, weight: Any, bias: Any, mean: Any, variance: Any, epsilon: float
) -> fx.Node:
    """Return scale * layer + shift with both in its weights; scale = weight / sqrt(variance + epsilon)."""
    call = graph.call_function
    scale = call(_aten.rsqrt.default, (call(_aten.add.Tensor, (variance, epsilon)),))
    scale = scale if weight is None else call(_aten.mul.Tensor, (scale, weight))
    shift = call(_aten.mul.Tensor, (mean, scale))
    shift = call(_aten.neg.default, (shift,)) if bias is None else call(_aten.sub.Tensor, (bias, shift))
    own = {_aten.convolution.default: 2, _aten.addmm.default: 0}.get(layer.target)
    if own is not None and layer.args[own] is not None:
        shift = call(_aten.add.Tensor, (shift, call(_aten.mul.Tensor, (layer.args[own], scale))))
    if layer.target is _aten.convolution.default:
        dims = len(layer.args[3])
        scaled = call(_aten.mul.Tensor, (layer.args[1], call(_aten.reshape.default, (scale, [-1] + [1] * (dims + 1)))))
        return call(_aten.convolution.default, (layer.args[0], scaled, shift, *layer.args[3:]))
    inputs, matrix = layer.args[-2:]
    return call(_aten.addmm.default, (shift, inputs, call(_aten.mul.Tensor, (matrix, scale))))


def _slice_pools(graph: fx.Graph, affine: set[fx.Node]) -> None:
    """Turn max-pooling without overlap and padding into maxima of slices, before a ReLU instead of after it."""
    for node in list(graph.nodes):
        if node.target is not _aten.max_pool2d_with_indices.default or not _is_plain_pool(node):
            continue
        (pooled,) = node.users
        values, (size, _) = node.args[0], node.args[1]
        rectified = values.target is _aten.relu.default and len(values.users) == 1
        values = values.args[0] if rectified else values
        height, width = pooled.meta["tensor_meta"].shape[-2:]
        with graph.inserting_before(node):
            call, stops = graph.call_function, {-2: size * height, -1: size * width}

            def along(value: fx.Node, axis: int, call: Callable = call, stops: dict = stops, size: int = size) -> list:
                return [call(_aten.slice.Tensor, (value, axis, k, stops[axis], size)) for k in range(size)]

            def largest(values: Iterable[fx.Node], call: Callable = call) -> fx.Node:
                first, *others = values
                for other in others:
                    first = call(_aten.maximum.default, (first, other))
                return first

            if values in affine:  # all slices are affine, and cached as they are
                made = largest(piece for row in along(values, -2) for piece in along(row, -1))
            else:
                made = largest(along(largest(along(values, -2)), -1))
            pooled.replace_all_uses_with(call(_aten.relu.default, (made,)) if rectified else made)


def _is_plain_pool(node: fx.Node) -> bool:
    """Return whether pooling has square windows side by side, and nobody asks where its maxima were."""
    _, kernel, stride, padding, dilation, ceil = (*node.args, *(None,) * 6)[:6]
    apart = list(stride or kernel) == list(kernel) and kernel[0] == kernel[1] <= 4
    plain = set(padding or [0]) == {0} and set(dilation or [1]) == {1} and not ceil
    return apart and plain and [user.args[1] for user in node.users] == [0]


def with_sums(made: Stages, directions: int) -> fx.GraphModule:
    """Return the last stage as a graph that also sums what is affine, for a compiler to fuse.

    It takes what ``point`` and ``samples`` return, then each affine value at the center and along each direction, then
    the coefficients as tensors without axes.
    """
    graph, call = fx.Graph(), _aten.mul.Tensor
    given = _given(made.rest.graph)
    plain = len(given) - len(_outputs(made.affine))
    copies = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(given[:plain])}
    parts = {
        node: [graph.placeholder(f"part_{i}_{k}") for k in range(directions + 1)]
        for i, node in enumerate(given[plain:])
    }
    coefficients = [graph.placeholder(f"coefficient_{k}") for k in range(directions)]
    for node, (total, *others) in parts.items():
        for coefficient, other in zip(coefficients, others, strict=True):
            total = graph.call_function(_aten.add.Tensor, (total, graph.call_function(call, (other, coefficient))))
        copies[node] = total
    for node in made.rest.graph.nodes:
        if node.op not in ("placeholder", "output"):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[_outputs(made.rest)])
    return fx.GraphModule(made.rest, graph)


def _outputs(module: fx.GraphModule) -> Any:  # a node, or a tuple of nodes
    return next(node for node in module.graph.nodes if node.op == "output").args[0]


def along_directions(
    affine: Callable[..., tuple[Tensor, ...]], center: Tensor, directions: Tensor, buffers: Tensor, inputs: Tensor
) -> list[list[Tensor]]:
    """Return what the affine stage makes of the center and, its linear part, of each direction: [value][1 + k]."""
    function = lambda theta: affine(theta, buffers, inputs)  # noqa: E731
    values, tangents = [], []
    for direction in directions:
        values, found = torch.func.jvp(function, (center,), (direction,))
        tangents.append(found)
    return [[_dense(v) for v in parts] for parts in zip(values, *tangents, strict=True)]


def _dense(values: Tensor) -> Tensor:
    """Return a copy without gaps, its axes in the same order in memory."""
    return torch.empty_like(values).copy_(values.detach())
