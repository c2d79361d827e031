"""
The barrier between two minima
==============================

Two networks that differ in their seed, and the loss on the straight line between them and a little beyond.
"""

import lossatlas
import torch
from lossatlas import zoo
from lossatlas.data import load_dataset

samples = load_dataset({"name": "fashion-mnist-mini"}).train
inputs, targets = torch.as_tensor(samples.inputs), torch.as_tensor(samples.targets)


def trained(seed: int) -> torch.nn.Module:
    """Train LeNet for one pass over the images."""
    torch.manual_seed(seed)
    model = zoo.builder("lenet")()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for batch in torch.randperm(len(inputs)).split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return model


one, other = trained(0), trained(1)

# %%
# ``barrier`` is the height above the worse of the two ends.

data = inputs[:500], targets[:500]
curve = lossatlas.curve(one, "cross-entropy", data, to=other, range=(-0.5, 1.5), points=41)
print(f"barrier {float(curve['barrier'].squeeze()):.2f}, a random guess has loss {curve.attrs['random_guess']:.2f}")
curve.plot()
