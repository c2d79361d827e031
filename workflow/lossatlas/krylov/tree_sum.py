"""Sums of which no bit depends on how many processes compute them.

What is summed is cut into ``LEAVES`` leaves whatever the processes are; one process sums a leaf, and leaves are added
along one binary tree. A process has consecutive leaves; it adds those that make up whole branches of the tree.
"""

from collections.abc import Iterable
from typing import Any

LEAVES = 16
"""Leaves of the tree of every sum; at most as many processes share one."""

Branch = tuple[range, Any]
"""Consecutive leaves that are one branch of the tree, and the sum over them; None where there is nothing to sum."""


def leaf(total: int, number: int) -> slice:
    """Return which of ``total`` things lie in a leaf."""
    return slice(total * number // LEAVES, total * (number + 1) // LEAVES)


def fold(branches: Iterable[Branch]) -> list[Branch]:
    """Add consecutive branches along the tree, as far as they make up larger ones; sums are added in place."""
    folded: list[Branch] = []
    for branch in branches:
        folded.append(branch)
        del branch  # nobody but ``folded`` holds a sum, so that one that was added is freed before the next is made
        while len(folded) > 1 and _siblings(folded[-2][0], folded[-1][0]):
            _add_last(folded)
    return folded


def _add_last(folded: list[Branch]) -> None:
    """Replace the last two branches by the one that they make up."""
    (right, two), (left, one) = folded.pop(), folded.pop()
    if one is not None and two is not None:
        one += two
    folded.append((range(left.start, right.stop), two if one is None else one))


def _siblings(left: range, right: range) -> bool:
    return len(left) == len(right) and left.start % (2 * len(left)) == 0
