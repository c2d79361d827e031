"""
A recorded trajectory
=====================

``lossatlas.record`` writes parameters while your loop runs. What it wrote opens with Xarray, and
is the path of a plane.
"""

import tempfile
from pathlib import Path

import lossatlas
import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from lossatlas import zoo
from lossatlas.data import load_dataset

samples = load_dataset({"name": "fashion-mnist-mini"}).train
inputs, targets = torch.as_tensor(samples.inputs), torch.as_tensor(samples.targets)

torch.manual_seed(0)
model = zoo.builder("lenet")()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
store = Path(tempfile.mkdtemp()) / "trajectory.zarr"
with lossatlas.record(model, store, every=2) as tape:
    for batch in torch.randperm(len(inputs)).split(32):
        loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tape.step(loss, optimizer.param_groups[0]["lr"])

# %%
# How far it went from where it began, and how long its steps were.

trajectory = xr.open_zarr(store, chunks=None)
theta = trajectory["parameters"].values.astype(float)
figure, (far, loss) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
far.plot(trajectory["iteration"], np.linalg.norm(theta - theta[0], axis=1), label="from the start")
far.plot(trajectory["iteration"], np.linalg.norm(theta - theta[-1], axis=1), label="from the end")
far.set(xlabel="iteration", ylabel="distance")
far.legend()
loss.plot(trajectory["iteration"], trajectory["batch_loss"], ".-")
loss.set(xlabel="iteration", ylabel="mini-batch loss")

# %%
# The model is the last point of its own path.

plane = lossatlas.plane(model, "cross-entropy", (inputs[:200], targets[:200]), "pca", path=str(store), points=(25, 25))
plane.plot()
