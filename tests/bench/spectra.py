"""PyHessian's spectral density of ResNet-20 and ours from the same probe, on one axis: results/bench_spectra.png."""

from pathlib import Path

import numpy as np
import pyhessian
import torch
from lossatlas.krylov import Spectrum, lanczos
from lossatlas.render.style import style
from matplotlib import pyplot as plt
from scipy.stats import norm, wasserstein_distance
from torch.nn import functional

from tests.bench.curvature import setting
from tests.numerics.test_peers import rademacher, stand_in_for_eig


def draw(path: Path, samples: int = 100, steps: int = 30) -> float:
    """Draw both densities, and return their Wasserstein-1 distance relative to the largest magnitude of a node.

    PyHessian does not keep its Lanczos vectors orthogonal to all earlier ones, so its later nodes repeat converged
    eigenvalues; their weights then share what one node of ours has.
    """
    torch.eig = stand_in_for_eig
    module, network, problem = setting("resnet20", samples)
    peer = pyhessian.hessian(module, functional.cross_entropy, dataloader=problem.chunks, cuda=False)
    torch.manual_seed(5)
    theirs = [np.array(values[0]) for values in peer.density(iter=steps, n_v=1)]
    torch.manual_seed(5)
    probe = rademacher(module)[None]
    ours = Spectrum.of(lanczos(problem.linearize(network.parameters(), network.buffers()), probe, steps), probe.size)
    sigma, span = ours.width(), ours.nodes[0][[0, -1]]
    at = np.linspace(*(span + np.array([-0.05, 0.05]) * np.ptp(span)), 2000)
    with style():
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        density = ours.density(at).value
        axes.semilogy(at, density, label="LossAtlas", linewidth=3, alpha=0.6)
        axes.semilogy(at, norm.pdf(at[:, None], theirs[0], sigma) @ theirs[1], "--", label="PyHessian", color="black")
        axes.set(
            xlabel="eigenvalue",
            ylabel=f"density, kernel width {sigma:.3g}",
            ylim=(1e-7 * density.max(), 3 * density.max()),
        )
        axes.set_title(f"ResNet-20, {samples} samples, one probe, {steps} Lanczos steps")
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)
    return wasserstein_distance(ours.nodes[0], theirs[0], ours.weights[0], theirs[1]) / np.abs(ours.nodes).max()
