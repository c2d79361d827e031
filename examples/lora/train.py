"""Train a GPT on the README, then adapters over it on the licence; the adapters' training is recorded."""

from collections.abc import Iterator

import lossatlas
import torch
from lossatlas.vision import torchvision

torchvision()  # before transformers, which fails where torchvision was built for another torch
import net  # noqa: E402


def trained(model: torch.nn.Module, file: str, steps: int, rate: float) -> Iterator[torch.Tensor]:
    """Take steps of AdamW over random pieces of a text; yield the loss of each."""
    inputs, targets = net.pieces(file)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (16,))
        loss = net.loss(model(inputs[chosen]), targets[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


def main() -> None:
    """Train both."""
    torch.manual_seed(0)
    network = net.base()
    for _ in trained(network, "README.md", steps=200, rate=0.003):
        pass
    model = net.adapted(network)
    with lossatlas.record(model, "recorded/trajectory.zarr", start=0) as tape:
        for loss in trained(model, "LICENSE", steps=60, rate=0.01):
            tape.step(loss)


if __name__ == "__main__":
    main()
