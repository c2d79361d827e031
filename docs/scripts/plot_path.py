"""
The path of a training, on the plane in which it varies most
============================================================

A plain PyTorch loop keeps a few checkpoints; ``lossatlas.plane`` finds the principal components of their path and
evaluates the loss around it.
"""

import copy

import lossatlas
import matplotlib.pyplot as plt
import torch
from lossatlas import zoo
from lossatlas.data import load_dataset

samples = load_dataset({"name": "fashion-mnist-mini"}).train
inputs, targets = torch.as_tensor(samples.inputs), torch.as_tensor(samples.targets)

torch.manual_seed(0)
model = zoo.builder("lenet")()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
path = []
for step in range(100):
    if step % 5 == 0:
        path.append(copy.deepcopy(model.state_dict()))
    batch = slice(32 * step, 32 * step + 32)
    loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# The plane. Axes give the share of the path's variance that each direction holds.

data = inputs[:200], targets[:200]
plane = lossatlas.plane(model, "cross-entropy", data, "pca", path=path, points=(25, 25))
plane.plot()

# %%
# Seen from the side, with the path at the loss of its projection.

plane.plot_3d()

# %%
# Checkpoints do not lie on the plane. How far away they are, and what that does to the loss, is in the dataset:

figure, (distance, height) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
distance.plot(plane["path_residual"], ".-")
distance.set(xlabel="checkpoint", ylabel="distance from the plane")
height.plot(plane["path_true_loss"].sel(split="train"), ".-", label="the checkpoint")
height.plot(plane["path_projected_loss"].sel(split="train"), ".--", label="its projection")
height.set(xlabel="checkpoint", ylabel="loss")
height.legend()
