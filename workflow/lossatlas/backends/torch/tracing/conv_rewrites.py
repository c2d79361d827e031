"""Rewrites of graphs of products for convolutional networks: fewer copies, and less work around max-pooling.

An activation of K vectors and B samples is a stack (K, B, channels, height, width). PyTorch's rules for ``vmap`` copy
it back and forth between two orders in memory, vectors first and samples first, since a convolution with common
weights sees it as (K B, channels, ...) and one with common images as (B, K channels, ...). Here the former takes a
stack as it lies. Most stacks then lie samples first, which the latter needs.

Max-pooling without overlap passes on some entries of a stack and drops the others. What acts on each entry by itself
(the derivative of ReLU) then need only act on those that are passed on.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.alias.default)


def rewrite(graph: fx.Graph) -> None:
    """Rewrite a graph of products in place; its values stay the same, bit for bit but for the sign of zeros."""
    for node in list(graph.nodes):
        if node.target is _aten.convolution.default:
            _convolve_stack(node, node, convolve)
        elif node.target is _aten.convolution_backward.default and list(node.args[-1]) == [True, False, False]:
            (gradient,) = node.users
            _convolve_stack(node, gradient, convolve_back)
        elif node.target is _aten.max_pool2d_with_indices_backward.default:
            _unpool_stack(node)
    graph.eliminate_dead_code()  # what only told max-pooling's backward pass a shape
    for node in list(graph.nodes):
        if node.target is _aten.gather.default:
            _pool_stack(node)
        elif node.target is unpool:
            _mask_before_unpooling(node)
    graph.eliminate_dead_code()


def _by_images(stack: Tensor, function: Callable) -> Tensor:
    """Return what a function of images (n, ...) makes of a stack (K, B, ...), in the stack's order in memory."""
    if stack.stride(1) > stack.stride(0):
        return function(stack.transpose(0, 1).flatten(0, 1)).unflatten(0, stack.shape[1::-1]).transpose(0, 1)
    return function(stack.flatten(0, 1)).unflatten(0, stack.shape[:2])


def convolve(stack: Tensor, *arguments: Any) -> Tensor:
    """Return the convolution of all images of a stack with the same weights."""
    return _by_images(stack, lambda images: _aten.convolution.default(images, *arguments))


def convolve_back(stack: Tensor, *arguments: Any) -> Tensor:
    """Return the derivative of a convolution by its images, applied to all images of a stack."""
    return _by_images(stack, lambda images: _aten.convolution_backward.default(images, *arguments)[0])


def pool(stack: Tensor, index: Tensor) -> Tensor:
    """Return the entries of a stack that max-pooling chose, (K, B, C, h, w), samples first in memory.

    Args:
        index: their places in each flat image of the samples, (B, C, h, w).
    """
    by_sample = stack.transpose(0, 1).flatten(3)
    index = index.unsqueeze(1).expand(-1, by_sample.shape[1], -1, -1, -1)
    return by_sample.gather(3, index.flatten(3)).view(index.shape).transpose(0, 1)


def unpool(stack: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a stack of images of a larger size that is zero but where max-pooling chose, the reverse of ``pool``."""
    by_sample = stack.transpose(0, 1).flatten(3)
    index = index.unsqueeze(1).expand(-1, by_sample.shape[1], -1, -1, -1)
    larger = by_sample.new_zeros(*by_sample.shape[:3], size[0] * size[1])
    return larger.scatter_(3, index.flatten(3), by_sample).unflatten(3, size).transpose(0, 1)


def _convolve_stack(node: fx.Node, images: fx.Node, function: Callable) -> None:
    """Let a convolution of images (K B, ...) take the stack (K, B, ...) that they were made of."""
    stack = _stack_of(node.args[0])
    if stack is not None:
        leading, rest = _shape(stack)[:2], _shape(images)[1:]
        _replace(images, _insert(node, function, (stack, *node.args[1:]), (*leading, *rest)))


def _unpool_stack(node: fx.Node) -> None:
    """Let max-pooling's backward pass take a stack; it need not know the stack that was pooled."""
    gradient, _, kernel, stride, _, dilation, _, repeated = node.args
    apart = all(s >= k for s, k in zip(stride or kernel, kernel, strict=True)) and set(dilation) == {1}
    stack, index = _stack_of(gradient), _index(repeated)
    if apart and stack is not None and index is not None:
        size = tuple(_shape(node)[2:])
        shape = (*_shape(stack)[:3], *size)
        _replace(node, _insert(node, unpool, (stack, index, size), shape))


def _pool_stack(node: fx.Node) -> None:
    """Let max-pooling's forward derivative take a stack, and the derivative of ReLU before it act on what is left."""
    flat, dim, repeated = node.args[:3]
    stack, index = flat.args[0] if flat.target in _RESHAPES else flat, _index(repeated)
    if index is None or dim != 3 or len(_shape(stack)) != 5 or len(_shape(flat)) != 4:
        return
    shape = (*_shape(stack)[:3], *_shape(index)[2:])
    if stack.target is _aten.threshold_backward.default and len(_shape(stack.args[1])) == 4 and len(stack.users) == 1:
        passed = _insert(node, pool, (stack.args[0], index), shape)
        made = _masked(node, passed, stack, index)
    else:
        made = _insert(node, pool, (stack, index), shape)
    _replace(node, made)


def _mask_before_unpooling(node: fx.Node) -> None:
    """Let the derivative of ReLU act on a pooled stack instead of the whole one after it."""
    stack, index, size = node.args
    for user in list(node.users):
        if user.target is _aten.threshold_backward.default and user.args[0] is node and len(_shape(user.args[1])) == 4:
            made = _insert(user, unpool, (_masked(user, stack, user, index), index, size), _shape(user))
            user.replace_all_uses_with(made)


def _masked(before: fx.Node, stack: fx.Node, mask: fx.Node, index: fx.Node) -> fx.Node:
    """Return a pooled stack times the derivative of ReLU, as ``mask`` applies it to the whole stack."""
    _, values, threshold = mask.args
    single = _insert(before, _aten.unsqueeze.default, (values, 0), (1, *_shape(values)))
    pooled = _insert(before, pool, (single, index), (1, *_shape(index)))
    return _insert(before, _aten.threshold_backward.default, (stack, pooled, threshold), _shape(stack))


def _insert(before: fx.Node, function: Callable, arguments: tuple, shape: tuple) -> fx.Node:
    """Return a new node before another one, with the shape of its value."""
    with before.graph.inserting_before(before):
        made = before.graph.call_function(function, arguments)
    made.meta["tensor_meta"] = arguments[0].meta["tensor_meta"]._replace(shape=torch.Size(shape), stride=())
    return made


def _replace(images: fx.Node, stack: fx.Node) -> None:
    """Replace what was made of images by a stack of other shape; most often it was reshaped to that stack anyway."""
    with images.graph.inserting_after(stack):
        reshaped = images.graph.call_function(_aten.reshape.default, (stack, list(_shape(images))))
    reshaped.meta["tensor_meta"] = images.meta["tensor_meta"]
    images.replace_all_uses_with(reshaped)
    for user in list(reshaped.users):
        if user.target in _RESHAPES and _shape(user) == _shape(stack):
            user.replace_all_uses_with(stack)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _stack_of(images: fx.Node) -> fx.Node | None:
    """Return the stack (K, B, ...) that images (K B, ...) are a reshape of."""
    shape, node = _shape(images), images
    while node.target in _RESHAPES:
        node = node.args[0]
        found = _shape(node)
        if len(found) == len(shape) + 1 and found[0] * found[1] == shape[0] and found[2:] == shape[1:]:
            return node
    return None


def _index(repeated: fx.Node) -> fx.Node | None:
    """Return the places that max-pooling chose in the samples, (B, C, h, w), of those repeated for all vectors."""
    node = repeated
    while node.target in (*_RESHAPES, _aten.expand.default):
        node = node.args[0]
    pooled = node.target is operator.getitem and node.args[0].target is _aten.max_pool2d_with_indices.default
    return node if pooled and len(_shape(node)) == 4 else None
