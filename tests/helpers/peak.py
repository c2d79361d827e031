"""Print, as JSON, the memory that Hessian products of a network took at their peak, and what was predicted.

A process of its own, for memory that was freed before would be used again and not be seen. Linux only.

    python peak.py NETWORK SAMPLES MEMORY_GB STRATEGY VECTORS
"""

import ctypes
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchProblem, set_up
from lossatlas.data import Split
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers import transformers


def status(field: str) -> int:
    """Return a field of the process's status in bytes: VmRSS, the memory in use, or VmHWM, its peak."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def problem_of(name: str, samples: int) -> TorchProblem:
    """Return the loss of a network with initial weights on random samples in chunks of 100, float32."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    build = {"vit": transformers.ViT, "gpt": transformers.GPT}.get(name) or zoo.builder(name)
    split = Split(rng.standard_normal((samples, 3, 32, 32)), rng.integers(0, 10, samples))
    if name == "gpt":
        split = Split(*rng.integers(0, 65, (2, samples, 32)))
    network = FlatNetwork(build(), Device(torch.device("cpu"), torch.float32))
    return TorchProblem(network, functional.cross_entropy, split, 100)


def main(name: str, samples: int, memory_gb: float, strategy: str, count: int) -> None:
    """Measure two blocks of products, the linearisation included, after libraries are loaded by a few samples."""
    for problem in (problem_of(name, 2), problem_of(name, samples)):
        theta, buffers = problem.network.parameters(), problem.network.buffers()
        problem.pieces(1)  # samples in the layout of products are no part of the budget
        vectors = np.random.default_rng(1).standard_normal((count, problem.layout.size))
        ctypes.CDLL(None).malloc_trim(0)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is in use now
        operator = problem.linearize(theta, buffers, memory_gb=memory_gb, strategy=strategy)
        for _ in range(2):
            operator.matmat(vectors)
        peak = status("VmHWM") - before
    plan = operator._plan
    found = {"peak": peak, "predicted": plan.peak, "budget": int(memory_gb * 2**30), "kept": len(operator._kept)}
    print(json.dumps(found | {"pieces": len(plan.pieces), "strategy": operator.strategy, "width": plan.width}))


if __name__ == "__main__":
    set_up("cpu", "float32", threads=1)  # as jobs do, with the allocator told to keep what is freed
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
