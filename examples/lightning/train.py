"""Train a small network by Lightning's Trainer, and record it."""

from lossatlas import LightningRecorder  # before lightning, which fails where torchvision was built for another torch

# isort: split
import net
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    """The network and how it is trained."""

    def __init__(self):
        super().__init__()
        self.net = net.build()

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        inputs, targets = batch
        return functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def main() -> None:
    """Train for one pass over the images."""
    seed_everything(0)
    images = TensorDataset(*(torch.as_tensor(part) for part in net.data()["train"]))
    recorder = LightningRecorder("recorded/trajectory.zarr", module="net")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[recorder], **quiet)
    trainer.fit(Classifier(), DataLoader(images, batch_size=50, shuffle=True))


if __name__ == "__main__":
    main()
