"""Rewrites of graphs of products for depthwise convolutions: weight gradients of several vectors as matrix products.

A convolution that filters each channel by itself has weights (C, 1, h, w). With K vectors, ``vmap`` makes its weight
gradients one convolution of C groups, with K channels per group on one side and one on the other. No library has
kernels for these; channel by channel they are products of a matrix (K, pixels) with one of (pixels, h w).
"""

import torch
from torch import Tensor, fx

_aten = torch.ops.aten


def rewrite(graph: fx.Graph) -> None:
    """Rewrite a graph of products in place; its values stay the same up to rounding."""
    for node in list(graph.nodes):
        if node.target is _aten.convolution_backward.default and _apart(node):
            (gradient,) = node.users
            weight, (stride, padding, dilation) = node.args[2], node.args[4:7]
            arguments = (*node.args[:2], tuple(_shape(weight)), stride, padding, dilation)
            with graph.inserting_before(node):
                made = graph.call_function(weight_gradient, arguments)
            made.meta = dict(gradient.meta)
            gradient.replace_all_uses_with(made)
    graph.eliminate_dead_code()


def _apart(node: fx.Node) -> bool:
    """Return whether a node is the weight gradient of groups with several channels on one side and one on the other."""
    (gradient, images), (transposed, _, groups, wanted) = node.args[:2], node.args[7:]
    if list(wanted) != [False, True, False] or transposed or groups == 1 or len(_shape(images)) != 4:
        return False
    ours, theirs = _shape(gradient)[1] // groups, _shape(images)[1] // groups
    return min(ours, theirs) == 1 < max(ours, theirs) and len(node.users) == 1


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def weight_gradient(
    gradient: Tensor, images: Tensor, shape: tuple[int, ...], stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """Return the derivative of a grouped convolution by its weights, for groups with one channel on one side.

    Args:
        gradient: the derivative by what the convolution returns, (B, groups * k, y, x).
        images: what it is given, (B, groups, Y, X); or k may stand here and 1 above.
        shape: that of the weights, (groups * k, 1, h, w) or (groups, k, h, w).

    Returns:
        The derivative, of this shape.
    """
    groups, size = min(gradient.shape[1], images.shape[1]), (*shape[2:],)
    if gradient.shape[1] >= images.shape[1]:
        several, windows = gradient, _windows(images, gradient.shape[2:], size, stride, padding, dilation)
    else:
        several, windows = images, _placed(gradient, images.shape[2:], size, stride, padding, dilation)
    rows = several.unflatten(1, (groups, -1)).permute(1, 2, 0, 3, 4).flatten(2)  # (groups, k, pixels of all images)
    return torch.bmm(rows, windows.permute(1, 2, 0, 3, 4).flatten(2).transpose(1, 2)).reshape(shape)


def _windows(
    images: Tensor, pixels: tuple[int, ...], size: tuple[int, ...], stride: list[int], padding: list[int], apart: list
) -> Tensor:
    """Return the pixels (B, C, Y, X) under each weight at each place of the filter, (B, C, h w, y, x)."""
    padded = torch.nn.functional.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    return torch.stack([padded[..., y, x] for y, x in _places(pixels, size, stride, apart)], 2)


def _placed(
    gradient: Tensor, pixels: tuple[int, ...], size: tuple[int, ...], stride: list[int], padding: list[int], apart: list
) -> Tensor:
    """Return the transpose: each number (B, C, y, x) where it meets each weight, zero elsewhere, (B, C, h w, Y, X)."""
    larger = [n + 2 * p for n, p in zip(pixels, padding, strict=True)]
    placed = gradient.new_zeros(*gradient.shape[:2], size[0] * size[1], *larger)
    for number, (y, x) in enumerate(_places(gradient.shape[2:], size, stride, apart)):
        placed[:, :, number, y, x] = gradient
    return placed[..., padding[0] : padding[0] + pixels[0], padding[1] : padding[1] + pixels[1]]


def _places(
    pixels: tuple[int, ...], size: tuple[int, ...], stride: list[int], apart: list[int]
) -> list[tuple[slice, slice]]:
    """Return for each weight of a filter the padded pixels that it meets, one for each pixel of the result."""
    rows, columns = (
        [slice(d * i, d * i + s * (n - 1) + 1, s) for i in range(k)]
        for n, k, s, d in zip(pixels, size, stride, apart, strict=True)
    )
    return [(row, column) for row in rows for column in columns]
