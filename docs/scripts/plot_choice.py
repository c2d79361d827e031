"""
One minimum, two planes
=======================

The same network, on a random plane and on that of its two sharpest directions. Nothing in the random one hints at the
curvature that the other shows: two directions out of 62,006 miss the few in which the loss is steep.
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
for step in range(100):
    batch = slice(32 * step, 32 * step + 32)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
    optimizer.step()

# %%
# Directions have unit length on both planes, so that they show neighbourhoods of one size.

around = {"normalize": "none", "range": ((-0.5, 0.5), (-0.5, 0.5)), "points": (17, 17)}
data = inputs[:200], targets[:200]
size = sum(p.numel() for p in model.parameters())
draws = np.random.default_rng(0).standard_normal((2, size))
planes = {
    "random": lossatlas.plane(model, "cross-entropy", data, draws / np.linalg.norm(draws, axis=1)[:, None], **around),
    "eigenvectors": lossatlas.plane(model, "cross-entropy", data, "eigen", **around),
}

# %%
# One scale for both.

figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
for axes, (name, plane) in zip(panels, planes.items(), strict=True):
    loss = plane["loss"].sel(split="train")
    drawn = axes.contourf(plane["x"], plane["y"], loss, levels=np.linspace(0.5, 5, 19), extend="max")
    axes.set(title=f"{name}: {float(loss.min()):.2f} to {float(loss.max()):.2f}", xlabel="alpha", ylabel="beta")
figure.colorbar(drawn, label="loss")
