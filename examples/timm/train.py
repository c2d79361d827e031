"""Train a network of timm's in a plain loop, and record it."""

import lossatlas
import torch
from lossatlas.vision import torchvision
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

torchvision()  # before timm, which fails where torchvision was built for another torch
import net  # noqa: E402


def main() -> None:
    """Train for half a pass over the images."""
    torch.manual_seed(0)
    model = net.build()
    images = TensorDataset(*(torch.as_tensor(part[:2000]) for part in net.data()["train"]))
    loader = DataLoader(images, batch_size=50, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    with lossatlas.record(model, "recorded/trajectory.zarr", start=0, steps_per_epoch=len(loader)) as tape:
        for inputs, targets in loader:
            loss = functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tape.step(loss, optimizer.param_groups[0]["lr"])


if __name__ == "__main__":
    main()
