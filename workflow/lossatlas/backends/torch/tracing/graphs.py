"""Graphs of products with curvature: rid of work that changes nothing, and split where the vectors come in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tag, Tensor, fx
from torch._ops import OpOverload
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lossatlas.backends.torch.tracing import conv_rewrites, depthwise

_aten = torch.ops.aten
_ZEROS = (_aten.zeros, _aten.zeros_like, _aten.new_zeros, _aten._new_zeros_with_same_feature_meta)
_VIEWS = (_aten.view, _aten.reshape, _aten.expand, _aten.permute, _aten.alias, _aten.transpose, _aten.unsqueeze)
_ANY_LAYOUT = {
    *_VIEWS, _aten._unsafe_view, _aten.squeeze, _aten.slice, _aten.select, _aten.t, _aten.clone, _aten._to_copy,
    _aten.copy, _aten.cat, _aten.stack, _aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm, _aten.sum, _aten.mean,
    _aten.convolution, _aten.convolution_backward, _aten.max_pool2d_with_indices,
    _aten.max_pool2d_with_indices_backward, _aten.gather,
}  # fmt: skip
"""Operations, besides those on each entry by itself, that read their inputs rightly however they lie in memory."""


class ImpureError(RuntimeError):
    """A function to be traced changes tensors that it was given."""


def trace(function: Callable, *arguments: Tensor) -> fx.GraphModule:
    """Return the operations of a pure function as a graph, rewritten."""
    return rewrite(plain(function, *arguments))


def plain(function: Callable, *arguments: Tensor) -> fx.GraphModule:
    """Return the operations of a pure function as a graph.

    Raises:
        ImpureError: the function changes tensors in place that it has not made itself, such as buffers; for a part of
            the graph would then not be what it is in the whole.
    """
    joint = make_fx(functionalize(function))(*arguments)
    for node in joint.graph.nodes:
        if _writes(node) and not _made_pure(node):
            raise ImpureError(f"{node.target} changes a tensor in place")
    joint.recompile()
    return joint


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _made_pure(node: fx.Node) -> bool:
    """Let an operation return what it writes into its first argument, and say whether that could be done.

    Such operations are left where a tensor was made of constants alone. It must have been made in the graph, and no
    other tensor may share its memory.
    """
    written, schema = node.args[0], node.target._schema
    name = schema.name.removeprefix("aten::")
    pure = getattr(getattr(_aten, name.removesuffix("_"), None), node.target._overloadname, None)
    written_once = [argument.is_write for argument in schema.arguments].count(True) == 1 and schema.arguments[
        0
    ].is_write
    if pure is None or not name.endswith("_") or not written_once or _may_share(written):
        return False
    readers = [user for user in written.users if not (_writes(user) and user.args[0] is written)]
    if any(_may_share(reader) for reader in readers if reader.op == "call_function"):
        return False
    node.target, later = pure, False
    for other in list(node.graph.nodes):
        later = later or other is node
        if later and other is not node:
            other.replace_input_with(written, node)
    return True


def _may_share(node: fx.Node) -> bool:
    """Return whether the result of a node may share memory with what it was given."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def rewrite(joint: fx.GraphModule) -> fx.GraphModule:
    """Return a graph of ``plain`` without operations that only add zeros or copy; ``images`` and ``depthwise`` follow.

    A tensor that is no longer copied may lie otherwise in memory. Most operations do not mind. Some read memory as it
    lay when traced and are silently wrong otherwise (the backward pass of LayerNorm reads means that were repeated as
    if they had been written out); these get their tensors laid out as they were. A graph that addresses memory itself
    is returned as it is.
    """
    if any(_kind(node) is _aten.as_strided for node in joint.graph.nodes):
        return joint
    graph = fx.Graph()
    graph.output(graph.graph_copy(joint.graph, {}))
    zeros = _zeros(graph)
    _keep_layouts(graph)
    for node in list(graph.nodes):
        same = _same(node, zeros)
        if same is not None:
            node.replace_all_uses_with(same)
        elif node.target in (_aten.view.default, _aten._unsafe_view.default):
            node.target = _aten.reshape.default
    graph.eliminate_dead_code()
    conv_rewrites.rewrite(graph)
    depthwise.rewrite(graph)
    return fx.GraphModule(joint, graph)


def laid_out(values: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a tensor with these strides, or without gaps where they repeat entries; a copy if it has others."""
    if values.stride() == strides:
        return values
    repeats = any(stride == 0 and size > 1 for stride, size in zip(strides, values.shape, strict=True))
    if repeats:
        return values.contiguous()
    return torch.empty_strided(values.shape, strides, dtype=values.dtype, device=values.device).copy_(values)


def _keep_layouts(graph: fx.Graph) -> None:
    """Let operations that may mind have their tensors as they lie now, whatever is rewritten before them."""
    for node in list(graph.nodes):
        if not isinstance(node.target, OpOverload) or Tag.pointwise in node.target.tags or _kind(node) in _ANY_LAYOUT:
            continue
        for source in node.all_input_nodes:
            meta = source.meta.get("tensor_meta")
            if source.op == "call_function" and hasattr(meta, "stride"):
                with graph.inserting_before(node):
                    made = graph.call_function(laid_out, (source, tuple(meta.stride)))
                made.meta = dict(source.meta)
                node.replace_input_with(source, made)


def _kind(node: fx.Node) -> object:
    """Return the operation of a node without its overload."""
    return getattr(node.target, "overloadpacket", None)


def _shape(node: fx.Node) -> tuple | None:
    """Return what a tensor must share with another to stand for it."""
    meta, value = node.meta.get("tensor_meta"), node.meta.get("val")
    return (tuple(meta.shape), meta.dtype, getattr(value, "device", None)) if hasattr(meta, "shape") else None


def _zeros(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that are zero whatever the inputs are: forward derivatives of constants, mostly."""
    zeros: set[fx.Node] = set()
    for node in graph.nodes:
        kind, arguments = (
            _kind(node),
            [argument in zeros for argument in node.args[:2] if isinstance(argument, fx.Node)],
        )
        viewed = kind in _VIEWS and arguments[0]
        convolved = kind is _aten.convolution and node.args[2] is None and any(arguments)
        if kind in _ZEROS or viewed or convolved:
            zeros.add(node)
    return zeros


def _same(node: fx.Node, zeros: set[fx.Node]) -> fx.Node | None:
    """Return an argument that a node equals: the other summand of zero, or what is copied over zeros."""
    kind = _kind(node)
    if kind is _aten.copy:
        candidates = [node.args[1]]
    elif kind is _aten.permute:
        axes = range(len(node.args[1]))
        candidates = [node.args[0]] if [axis % len(axes) for axis in node.args[1]] == list(axes) else []
    elif kind in (_aten.clone, _aten._to_copy):
        candidates = [node.args[0]]
    elif kind in (_aten.reshape, _aten.view, _aten._unsafe_view, _aten.expand, _aten.slice, _aten.alias):
        candidates = [node.args[0]]  # of the same shape, as below
    elif kind is _aten.add and not node.kwargs:
        candidates = [a for a, b in (node.args, node.args[::-1]) if b in zeros]
    else:
        return None
    return next((c for c in candidates if isinstance(c, fx.Node) and _shape(c) == _shape(node) is not None), None)


Parts = tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]


def proved(joint: fx.GraphModule, made: Parts, at: tuple[Tensor, ...], vectors: Tensor) -> Parts:
    """Return ``made``, a rewritten graph split in three, if it gives what ``joint`` gives, or else that one, split.

    Up to rounding, on the inputs ``at`` and the last one, ``vectors``. A line on the standard output says so if not.
    """
    primal, along, tangent = made
    with torch.no_grad():
        expected, found = joint(*at, vectors), tangent(*primal(*at), *along(vectors))
    scale = torch.where(expected.isfinite(), expected, 0).abs().max()
    gap = torch.where(found == expected, 0, found - expected).abs().nan_to_num(torch.inf)
    error = float(gap.masked_fill(found.isnan() & expected.isnan(), 0).max())
    if error <= torch.finfo(expected.dtype).eps ** 0.5 * scale:
        return made
    print(f"Hessian products: a rewritten graph differs by {error:.2g} of {float(scale):.2g}; the graph itself is used")
    return split(joint)


def split(joint: fx.GraphModule) -> Parts:
    """Split a graph whose last input is v into what does not depend on v, what depends on v alone, and the rest.

    ``primal`` takes the other inputs and ``along`` v; both return tuples. ``tangent`` takes both tuples, one after the
    other.
    """
    *inputs, v = [node for node in joint.graph.nodes if node.op == "placeholder"]
    output = next(node for node in joint.graph.nodes if node.op == "output")
    free, alone, rest = set(inputs), {v}, set[fx.Node]()
    for node in joint.graph.nodes:
        sources = node.all_input_nodes
        if node.op not in ("placeholder", "output"):
            bound = [source for source in sources if source not in free]
            place = rest if bound else free
            if bound and len(bound) == len(sources) and not rest.intersection(bound):
                place = alone
            place.add(node)
    used = dict.fromkeys(source for node in [*rest, output] for source in node.all_input_nodes)
    primal, saved = part(joint, inputs, free, [node for node in joint.graph.nodes if node in free and node in used])
    along, prepared = part(joint, [v], alone, [node for node in joint.graph.nodes if node in alone and node in used])
    tangent, _ = part(joint, [*saved, *prepared], rest, output.args[0])
    return primal, along, tangent


def part(joint: fx.GraphModule, inputs: list, chosen: set, outputs: list | fx.Node) -> tuple[fx.GraphModule, list]:
    """Return the chosen nodes of a graph as a graph of their own, and the nodes that it returns."""
    graph, several = fx.Graph(), isinstance(outputs, list)
    copies = {node: graph.placeholder(f"given_{i}") for i, node in enumerate(inputs)}
    for node in joint.graph.nodes:
        if node in chosen and node not in copies and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs) if several else copies[outputs])
    graph.eliminate_dead_code()
    return fx.GraphModule(joint, graph), outputs


class FrozenNorms(TorchFunctionMode):
    """Lets BatchNorm with frozen statistics be what it is, one affine map per channel: cheaper to differentiate."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace ``batch_norm`` outside training; pass on everything else."""
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
    scale = torch.rsqrt(running_var + eps) * (1.0 if weight is None else weight)
    shift = -running_mean * scale + (0.0 if bias is None else bias)
    shape = (1, -1) + (1,) * (input.ndim - 2)
    return input * scale.view(shape) + shift.view(shape)
