"""
The spectrum of a Hessian, with error bars
==========================================

Stochastic Lanczos quadrature sees all eigenvalues at once; a few extreme ones are found exactly besides.
"""

import lossatlas
import matplotlib.pyplot as plt
import numpy as np
import torch
from lossatlas import zoo
from lossatlas.data import load_dataset

samples = load_dataset({"name": "fashion-mnist-mini"}).train
inputs, targets = torch.as_tensor(samples.inputs), torch.as_tensor(samples.targets)

torch.manual_seed(0)
model = zoo.builder("lenet")()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for batch in torch.randperm(len(inputs)).split(32):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
    optimizer.step()

# %%
# The Hessian and its Gauss-Newton part, of the same samples and with the same probes.

data = inputs[:200], targets[:200]
matrices = {name: lossatlas.hessian(model, "cross-entropy", data, operator=name) for name in ("hessian", "ggn")}
spectra = {name: matrix.spectrum(probes=3, steps=30) for name, matrix in matrices.items()}
for name, spectrum in spectra.items():
    trace = spectrum.trace()
    print(f"{name}: trace {trace.value:.4g}, 95 % interval {trace.low:.4g} to {trace.high:.4g}")
    print(spectrum.accuracy().statement())

# %%
# A spectrum shows its density, with 95 % intervals over the probes.

spectra["hessian"].plot()

# %%
# Both densities on one axis, and the largest eigenvalues of the Hessian as lines.

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
low, high = (spectra["hessian"].nodes.min(), spectra["hessian"].nodes.max())
grid = np.linspace(low - 1, high + 1, 600)
for name, spectrum in spectra.items():
    axes.semilogy(grid, spectrum.density(grid, 0.01 * (high - low)).value, label=name)
for value in matrices["hessian"].eigenpairs(3, tolerance=1e-2).values:
    axes.axvline(value, color="0.6", linewidth=0.8)
axes.set(xlabel="eigenvalue", ylabel="density", ylim=(1e-6, None))
axes.legend()
