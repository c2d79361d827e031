"""Convolutions that add and rectify while they write their results: oneDNN's post-operations, on a processor.

A ReLU or a residual sum of its own reads and writes all of a layer's values again, at the speed of memory.
"""

from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_FUSED: Any = torch.ops.mkldnn._convolution_pointwise if hasattr(torch.ops.mkldnn, "_convolution_pointwise") else None


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes convolutions of this precision here."""
    if device.type != "cpu" or _FUSED is None or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def fuse(graph: fx.Graph, kept: set[fx.Node]) -> None:
    """Put ReLU, and sums of values of one shape, into the convolutions whose results they read, but those ``kept``."""
    layers = {node for node in graph.nodes if node not in kept and _is_convolution(node)}
    for node in list(graph.nodes):
        if node.target is _aten.relu.default and node.args[0] in layers:
            _replace(graph, node, node.args[0], None, "relu")
        elif node.target is _aten.add.Tensor and not node.kwargs:
            _fuse_sum(graph, node, layers)
    graph.eliminate_dead_code()


def _fuse_sum(graph: fx.Graph, node: fx.Node, layers: set[fx.Node]) -> None:
    for layer, other in (node.args[::-1], node.args):  # of two layers rather the second one
        if layer in layers and other is not layer and _shape(layer) == _shape(other) is not None:
            (*_, user) = node.users
            rectified = len(node.users) == 1 and user.target is _aten.relu.default
            _replace(graph, user if rectified else node, layer, other, "relu" if rectified else None)
            return


def _is_convolution(node: fx.Node) -> bool:
    """Return whether this is a convolution of images, not transposed, that has one reader."""
    return (
        node.target is _aten.convolution.default
        and len(node.users) == 1
        and len(node.args[3]) == 2
        and not node.args[6]
        and not node.kwargs
    )


def _shape(node: object) -> tuple | None:
    meta: Any = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return (tuple(meta.shape), meta.dtype) if hasattr(meta, "shape") else None


def _replace(graph: fx.Graph, last: fx.Node, layer: fx.Node, other: fx.Node | None, then: str | None) -> None:
    """Compute ``last`` by the layer itself, which adds ``other`` and applies ``then``."""
    inputs, weight, bias, stride, padding, dilation, _, _, groups = layer.args
    how = (weight, bias, padding, stride, dilation, groups)
    with graph.inserting_before(last):
        if other is None:
            made = graph.call_function(_FUSED.default, (inputs, *how, then, [], ""))
        else:
            made = graph.call_function(_FUSED.binary, (inputs, other, *how, "add", 1.0, then, [], None))
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made)
    graph.erase_node(last)
