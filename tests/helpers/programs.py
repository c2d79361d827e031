"""Random tensor programs: steps that change shapes, layouts and values of (samples, ...), as networks do.

A step is a name and a number that decides all that is open (which axes, which sizes). Steps work on every tensor; one
that cannot be applied leaves it as it is. Samples stay the first axis, and never mix.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 48
"""Numbers per sample at most."""


def run(x: Tensor, steps: list[tuple[str, int]]) -> Tensor:
    """Apply the steps one after the other."""
    for name, number in steps:
        x = STEPS[name](x, number)
    return x


def fixed(shape: tuple[int, ...], number: int, dtype: torch.dtype) -> Tensor:
    """Return constants between -1 and 1 that depend on the number."""
    return torch.sin(torch.arange(1, math.prod(shape) + 1, dtype=dtype) * (1.3 + number)).view(shape)


def axes(x: Tensor, number: int) -> list[int]:
    """Return an order of all axes but the first, some of them counted from behind."""
    left, order = list(range(1, x.ndim)), [0]
    while left:
        number, place = divmod(number, len(left))
        order.append(left.pop(place))
    return [axis - x.ndim if (number + i) % 2 else axis for i, axis in enumerate(order)]


def permute(x: Tensor, number: int) -> Tensor:
    """Change the order of axes."""
    return x.permute(axes(x, number))


def around(x: Tensor, number: int) -> Tensor:
    """Bring the samples to the end, multiply by what lies otherwise in memory, and bring them back."""
    y = x.permute(*range(1, x.ndim), 0) if number % 2 else x.transpose(0, -1)
    y = y * y.contiguous().tanh()
    return y.permute(-1, *range(x.ndim - 1)) if number % 2 else y.transpose(-1, 0)


def reshape(x: Tensor, number: int) -> Tensor:
    """Cut the numbers of a sample into other axes."""
    size = math.prod(x.shape[1:])
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    first = divisors[number % len(divisors)]
    shape = (first, size // first) if number % 3 else (size,)
    return x.contiguous().view(len(x), *shape) if number % 2 else x.reshape(-1, *shape)


def expand(x: Tensor, number: int) -> Tensor:
    """Repeat along a new axis, and use it as it is or sum over another one."""
    y = x.unsqueeze(1).expand(-1, 2, *x.shape[1:])
    return y if y[0].numel() <= LARGEST else y.mean(1 + number % (y.ndim - 1))


def cut(x: Tensor, number: int) -> Tensor:
    """Take every so many entries of an axis, or all."""
    axis = 1 + number % (x.ndim - 1)
    return x[(slice(None),) * axis + (slice(number % 2 if x.shape[axis] > 1 else 0, None, 1 + number % 3),)]


def add_zeros(x: Tensor, number: int) -> Tensor:
    """Add zeros of the same or another shape, scaled or not."""
    zeros = (torch.zeros_like(x), x.new_zeros(2, *x.shape), x.new_zeros(()), x.new_zeros(x.shape, dtype=torch.float32))
    added = (
        x + zeros[number % 4],
        zeros[number % 4] + x,
        torch.add(zeros[number % 4], x, alpha=2),
        torch.add(x, zeros[number % 4], alpha=3),
    )[number // 4 % 4]
    return added[0] if added.ndim > x.ndim else added


def copy(x: Tensor, number: int) -> Tensor:
    """Write into new tensors, of the same or of another shape or layout."""
    if number % 4 == 0:
        return torch.zeros_like(x).copy_(x)
    if number % 4 == 1:
        return x.new_zeros(2, *x.shape).copy_(x).mean(0)
    if number % 4 == 2:
        return torch.empty_like(x.transpose(-1, -2)).transpose(-1, -2).copy_(x)
    return x.clone(memory_format=torch.contiguous_format)


def cast(x: Tensor, number: int) -> Tensor:
    """Write into a tensor of lower precision, and go back."""
    return x.new_zeros(x.shape, dtype=torch.float32).copy_(x).to(x.dtype) + number * x.to(x.dtype)


def write(x: Tensor, number: int) -> Tensor:
    """Write into a part of a tensor, and into constants."""
    y = x.clone()
    y[:, number % x.shape[1]] += x[:, 0].sin()
    mask = torch.zeros(x.shape[1:], dtype=x.dtype).fill_(0.5).add_(1)
    return y.mul_(0.7) * mask


def matmul(x: Tensor, number: int) -> Tensor:
    """Multiply by a constant matrix."""
    return x @ fixed((x.shape[-1], 1 + number % 4), number, x.dtype)


def products(x: Tensor, number: int) -> Tensor:
    """Multiply a sample's matrix by its own transpose."""
    y = x.reshape(len(x), -1, x.shape[-1])
    return y @ y.mT if number % 2 else y.mT @ y if y.shape[-1] ** 2 <= LARGEST else x


def pointwise(x: Tensor, number: int) -> Tensor:
    """Apply a function to each entry."""
    return (torch.tanh, functional.softplus, torch.sin, functional.gelu, torch.relu)[number % 5](x)


def convolve(x: Tensor, number: int) -> Tensor:
    """Convolve along the last axis, or the last two."""
    if number % 2 and x[0].numel() >= 4 and x.ndim >= 3:
        images = x.reshape(len(x), 1, -1, x.shape[-1])
        return functional.conv2d(images, fixed((2, 1, 2, 2), number, x.dtype), padding=1, stride=2)
    return functional.conv1d(x.reshape(len(x), 1, -1), fixed((2, 1, 3), number, x.dtype), padding=1, stride=2)


def pool(x: Tensor, number: int) -> Tensor:
    """Take maxima or means of windows, with or without overlap."""
    images = x.reshape(len(x), 1, -1, x.shape[-1])
    if min(images.shape[2:]) < 2:
        return x
    stride = 1 + number % 2
    return (functional.max_pool2d if number % 4 < 2 else functional.avg_pool2d)(images, 2, stride)


def normalise(x: Tensor, number: int) -> Tensor:
    """Normalise over the last axis or all of them."""
    shape = x.shape[-1:] if number % 2 else x.shape[1:]
    return functional.layer_norm(x, shape, fixed(shape, number, x.dtype), eps=0.1)


def softmax(x: Tensor, number: int) -> Tensor:
    """Share out along an axis."""
    return x.softmax(1 + number % (x.ndim - 1))


def join(x: Tensor, number: int) -> Tensor:
    """Put a tensor beside itself, turned around."""
    axis = 1 + number % (x.ndim - 1)
    return torch.cat([x, x.flip(axis).square()], axis) if 2 * x[0].numel() <= LARGEST else x.roll(1, axis)


def reduce(x: Tensor, number: int) -> Tensor:
    """Take the mean over an axis and put it back as one of length one."""
    return x.mean(1 + number % (x.ndim - 1), keepdim=True) if x[0].numel() > 12 else x + x.amax(1, keepdim=True)


_ALL = (permute, around, reshape, expand, cut, add_zeros, copy, cast, write)
_ALL += (matmul, products, pointwise, convolve, pool, normalise, softmax, join, reduce)
STEPS = {step.__name__: step for step in _ALL}
