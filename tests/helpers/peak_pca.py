"""Run one PCA of a trajectory store, reading included; print seconds, peak memory and result. Linux only.

A process of its own, for memory that was freed before would be used again and not be seen.

    python peak_pca.py ours|sklearn STORE RESULT.npz
"""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
from lossatlas.geometry.directions import pca
from lossatlas.geometry.directions.unnormalized import Source
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import limit_threads
from sklearn.decomposition import PCA

THREADS = 2


def status(field: str) -> int:
    """Return a field of the process's status in bytes: VmRSS, the memory in use, or VmHWM, its peak."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def ours(store: str) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (2, N) and shares of the variance (2,) as a job computes them."""
    trajectory = Trajectory(Path(store))
    limit_threads(1)
    spec = {"count": 2, "center_rows": True, "solver": "gram"}
    made = pca.make(spec, Source(trajectory, len(trajectory) - 1, threads=THREADS))
    return made.vectors, made.values["explained_variance_ratio"]


def sklearn(store: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same by sklearn as it comes, in the store's float32."""
    limit_threads(THREADS)
    thetas = Trajectory(Path(store)).store["parameters"][:]
    model = PCA(n_components=2, random_state=0).fit(thetas[:-1] - thetas[-1])
    return model.components_, model.explained_variance_ratio_


if __name__ == "__main__":
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is in use now
    start = time.perf_counter()
    vectors, shares = {"ours": ours, "sklearn": sklearn}[sys.argv[1]](sys.argv[2])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": status("VmHWM") - before, "whole": status("VmHWM")}))
    if len(sys.argv) > 3:
        np.savez(sys.argv[3], vectors=vectors, shares=shares)
