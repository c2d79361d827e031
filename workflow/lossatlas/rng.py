"""Counter-based random numbers: every stream is a pure function of (seed, purpose, index).

Nothing is carried from one draw to the next, so results depend neither on the number of ranks nor on
what was drawn before, and an interrupted run continues with the same numbers.
"""

import hashlib

import numpy as np


def key(seed: int, purpose: str, *index: int) -> int:
    """Return the 128-bit key of one stream, e.g. ``key(0, "permutation", epoch)``."""
    text = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return NumPy's Philox generator at the start of the stream (seed, purpose, index)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *index)))


def torch_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a seed in [0, 2**63) for frameworks that keep a generator of their own."""
    return key(seed, purpose, *index) % 2**63
