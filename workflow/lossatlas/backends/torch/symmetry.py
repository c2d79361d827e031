"""Which hidden units of a network can change places, from the graph of its operations."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tag, Tensor, fx
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from lossatlas.backends.torch.network import FlatNetwork, untouched
from lossatlas.errors import LossAtlasError
from lossatlas.problem.units import Axis, Group, Units

_aten = torch.ops.aten
_SAME = ("clone", "detach", "alias", "_to_copy", "_softmax", "_log_softmax", "lift_fresh_copy")
_POOLS = ("max_pool1d", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "avg_pool1d",
          "_adaptive_avg_pool1d", "upsample_nearest2d", "upsample_bilinear2d")  # fmt: skip
"""Operations that leave axes what they are, and such that act on each channel of an image by itself."""


def interchangeable(network: FlatNetwork, inputs: Tensor) -> list[Group]:
    """Return the groups of hidden units that may change places.

    Args:
        inputs: some samples.

    Raises:
        LossAtlasError: the network has an operation that is not understood, or nothing in it can change places.
    """
    module = network.module
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    trained = {slot.name for slot in network.layout}
    movable = trained | {name for name, _ in network._buffers}
    names = list(tensors)

    def outputs(*values: Tensor) -> Any:
        return functional_call(module, dict(zip(names, values[:-1], strict=True)), (values[-1],))

    with untouched(module), torch.no_grad():
        graph = make_fx(functionalize(outputs))(*(tensor.detach() for tensor in tensors.values()), inputs).graph
    reading = _Reading()
    given = iter([*names, None])
    for node in graph.nodes:
        if node.op == "placeholder":
            name = next(given)
            reading.take(node, name, name in movable)
        elif node.op == "call_function":
            reading.call(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                reading.fix(result)
        else:
            reading.take(node, None, False)
    # A buffer that nothing is computed from would be a group by itself, with no weights to match.
    groups = [group for group in reading.units.groups() if any(role.name in trained for role in group)]
    if not groups:
        raise LossAtlasError("align: no hidden units of this network can change places")
    return groups


class _Reading:
    """Goes through a graph and keeps what moves along each axis of each tensor."""

    def __init__(self) -> None:
        self.units = Units()
        self.axes: dict[fx.Node, list[Axis]] = {}

    def take(self, node: fx.Node, name: str | None, movable: bool) -> None:
        """Take in a parameter or buffer, or with no name a tensor along whose axes nothing moves."""
        shape = _shape(node)
        if name is None:
            self.axes[node] = [None] * len(shape)
        else:
            self.axes[node] = [[*self.units.of_axis(name, k, size, movable)] for k, size in enumerate(shape)]

    def fix(self, node: fx.Node) -> None:
        """Let nothing move in a tensor."""
        for axis in self.axes[node]:
            self.units.fix(axis)

    def call(self, node: fx.Node) -> None:
        """Follow an operation."""
        tensors = list(node.all_input_nodes)
        if not any(axis for one in tensors for axis in self.axes[one]):  # nothing moves in what it is given
            self.axes[node] = [None] * len(_shape(node))
            return
        name = getattr(node.target, "_schema", None)
        name = node.target.__name__ if name is None else name.name.removeprefix("aten::")
        rule: Callable | None = getattr(self, f"_{name.strip('_')}", None)
        if rule is not None:
            made = rule(node, *node.args)
        elif name in _SAME:
            made = self.axes[tensors[0]]
        elif name in _POOLS:
            made = self._each_channel(tensors[0])
        elif Tag.pointwise in getattr(node.target, "tags", ()):
            made = self._pointwise(tensors, len(_shape(node)))
        else:
            self._refuse(node)
        if [size if axis is None else len(axis) for axis, size in zip(made, _shape(node), strict=False)] != [
            *_shape(node)
        ]:
            self._refuse(node)  # it was called in a way that the rule does not know
        self.axes[node] = made

    def _refuse(self, node: fx.Node) -> NoReturn:
        raise LossAtlasError(
            f"align: the network has the operation {str(node.target).removesuffix('.default')}, of which it is not "
            "known how units move through it; leave align out"
        )

    def _pointwise(self, tensors: list[fx.Node], dims: int) -> list[Axis]:
        joined: list[Axis] = []
        for k in range(-dims, 0):
            there = [(self.axes[one][k], _shape(one)[k]) for one in tensors if len(_shape(one)) >= -k]
            most = max(size for _, size in there)
            axes = [axis for axis, size in there if size == most or (axis is None and most == 1)]
            for axis, size in there:
                if size < most:
                    self.units.fix(axis)
            axis = axes[0]
            for other in axes[1:]:
                axis = self.units.join(axis, other)
            joined.append(axis)
        return joined

    def _each_channel(self, images: fx.Node) -> list[Axis]:
        own = self.axes[images]
        for axis in own[2:]:
            self.units.fix(axis)
        return [*own[:2], *[None] * (len(own) - 2)]

    def _getitem(self, node: fx.Node, results: fx.Node, number: int) -> list[Axis]:
        return self.axes[results] if number == 0 else [None] * len(_shape(node))

    def _t(self, node: fx.Node, matrix: fx.Node) -> list[Axis]:
        return self.axes[matrix][::-1]

    def _transpose(self, node: fx.Node, tensor: fx.Node, one: int, other: int) -> list[Axis]:
        axes = list(self.axes[tensor])
        axes[one], axes[other] = axes[other], axes[one]
        return axes

    def _permute(self, node: fx.Node, tensor: fx.Node, order: list[int]) -> list[Axis]:
        return [self.axes[tensor][k] for k in order]

    def _mm(self, node: fx.Node, one: fx.Node, other: fx.Node) -> list[Axis]:
        self.units.contract(self.axes[one][1], self.axes[other][0])
        return [self.axes[one][0], self.axes[other][1]]

    def _addmm(self, node: fx.Node, bias: fx.Node, one: fx.Node, other: fx.Node) -> list[Axis]:
        batch, units = self._mm(node, one, other)
        return [batch, self.units.join(units, self.axes[bias][-1])]

    def _convolution(self, node: fx.Node, images: fx.Node, weight: fx.Node, bias: fx.Node | None, *how: Any) -> list:
        transposed, groups = how[3], how[5]
        (batch, channels, *_), (first, second, *kernel) = self.axes[images], self.axes[weight]
        for axis in (*self.axes[images][2:], *kernel):
            self.units.fix(axis)
        if groups == 1:
            self.units.contract(channels, second if not transposed else first)
            units = first if not transposed else second
        elif _shape(weight)[:2] == (groups, 1) and not transposed:
            self.units.fix(second)
            units = self.units.join(channels, first)
        else:
            self._refuse(node)
        if bias is not None:
            units = self.units.join(units, self.axes[bias][0])
        return [batch, units, *[None] * len(kernel)]

    def _native_batch_norm(self, node: fx.Node, images: fx.Node, *parts: Any) -> list[Axis]:
        axes = list(self.axes[images])
        for part in parts[:4]:
            axes[1] = axes[1] if part is None else self.units.join(axes[1], self.axes[part][0])
        return axes

    _native_batch_norm_legit_no_training = _cudnn_batch_norm = _native_batch_norm

    def _native_layer_norm(self, node: fx.Node, values: fx.Node, shape: list, *parts: Any) -> list[Axis]:
        axes = list(self.axes[values])
        if len(shape) != 1:
            self._refuse(node)
        for part in parts[:2]:
            axes[-1] = axes[-1] if part is None else self.units.join(axes[-1], self.axes[part][0])
        return axes

    def _mean(self, node: fx.Node, tensor: fx.Node, dims: list | None = None, keep: bool = False, **_: Any) -> list:
        """Sums over units do not depend on their order."""
        own = self.axes[tensor]
        gone = {k % len(own) for k in (range(len(own)) if dims is None else dims)}
        return [None if k in gone else axis for k, axis in enumerate(own) if keep or k not in gone]

    _sum = _amax = _mean

    def _constant_pad_nd(self, node: fx.Node, tensor: fx.Node, pad: list[int], *_: Any) -> list[Axis]:
        axes = list(self.axes[tensor])
        for k in range(len(pad) // 2):
            before, after = pad[2 * k : 2 * k + 2]
            axis = axes[-1 - k]
            if axis is not None:
                kept = axis[max(0, -before) : len(axis) + min(0, after)]
                axes[-1 - k] = [None] * max(0, before) + kept + [None] * max(0, after)
        return axes

    def _slice(self, node: fx.Node, tensor: fx.Node, dim: int = 0, *cut: Any) -> list[Axis]:
        axes = list(self.axes[tensor])
        start, stop, step = [*cut, None, None, None][:3]
        axes[dim] = None if (axis := axes[dim]) is None else axis[start:stop:step]
        return axes

    def _cat(self, node: fx.Node, tensors: list[fx.Node], dim: int = 0) -> list[Axis]:
        axes = list(self.axes[tensors[0]])
        dim %= len(axes)
        for other in tensors[1:]:
            for k, axis in enumerate(self.axes[other]):
                axes[k] = axes[k] if k == dim else self.units.join(axes[k], axis)
        parts = [(self.axes[one][dim], _shape(one)[dim]) for one in tensors]
        if any(axis is not None for axis, _ in parts):
            axes[dim] = [e for axis, size in parts for e in (self.units.new(size, False) if axis is None else axis)]
        return axes

    def _view(self, node: fx.Node, tensor: fx.Node, *_: Any) -> list[Axis]:
        """Axes are merged, where something moves along one of them at most; or stay what they are."""
        before, after, own = list(_shape(tensor)), list(_shape(node)), list(self.axes[tensor])
        made: list[Axis] = []
        while before or after:
            k = j = 1  # as few axes as hold as many numbers; of the one shape none may be left, and of the other ones
            while (there := math.prod(before[:k])) != (here := math.prod(after[:j])):
                k, j = (k + 1, j) if there < here else (k, j + 1)
            made += self._merged(node, own[:k], before[:k], after[:j])
            before, after, own = before[k:], after[j:], own[k:]
        return made

    _unsafe_view = _reshape = _unsqueeze = _squeeze = _flatten = _view

    def _merged(self, node: fx.Node, axes: list[Axis], sizes: list[int], into: list[int]) -> list[Axis]:
        moving = [k for k, axis in enumerate(axes) if axis is not None and sizes[k] > 1]
        if not moving:
            return [None] * len(into)
        large = [k for k, size in enumerate(into) if size > 1]
        if len(moving) > 1 or len(large) != 1:
            self._refuse(node)
        (k,) = moving
        inner, outer = math.prod(sizes[k + 1 :]), math.prod(sizes[:k])
        several = inner * outer > 1
        merged: Axis = [
            None if e is None else (e[0], (*e[1], a * inner + b) if several else e[1])
            for a in range(outer)
            for e in axes[k]  # type: ignore[union-attr]
            for b in range(inner)
        ]
        return [merged if number == large[0] else None for number in range(len(into))]


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a tensor, or of the first of several."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, tuple | list) else value
    return tuple(value.shape) if isinstance(value, Tensor) else ()
