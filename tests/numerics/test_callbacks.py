"""Recorders for the trainers of others, with the real packages (extra `examples`): rows are what a plain loop holds."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.io.trajectory import Trajectory
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.filterwarnings("ignore")
"""Theirs: a warning of a class of Lightning's would be imported by the process that gathers results, which cannot."""


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def samples():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(24, 3, generator=generator), torch.randint(2, (24,), generator=generator)


def plain(epochs=2, size=6):
    """Take the steps of a plain loop, at a rate that falls with each; return theta before them and at the end."""
    module, (inputs, targets) = network(), samples()
    states, losses = [theta(module)], []
    for step in range(epochs * 24 // size):
        chosen = slice(step * size % 24, step * size % 24 + size)
        loss = functional.cross_entropy(module(inputs[chosen]), targets[chosen])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.data -= 0.2 * 0.5**step * gradient
        states.append(theta(module))
        losses.append(loss.item())
    return np.stack(states), np.array(losses)


def theta(module):
    return torch.cat([parameter.detach().ravel() for parameter in module.parameters()]).numpy()


def check(path, iterations, tolerance=1e-6):
    states, losses = plain()
    trajectory = Trajectory(path)
    assert trajectory.iterations.tolist() == iterations
    assert np.allclose(trajectory.store["parameters"][:], states[iterations], rtol=0, atol=1e-6)
    steps = iterations[:-1]
    assert np.allclose(trajectory.store["batch_loss"][:-1], losses[steps], atol=tolerance)
    assert np.allclose(trajectory.store["learning_rate"][:-1], 0.2 * 0.5 ** np.array(steps))
    assert np.isnan(trajectory.store["batch_loss"][-1])
    assert np.array_equal(trajectory.store["epoch"][:], np.array(iterations) / 4)


def halving(parameters):
    optimizer = torch.optim.SGD(parameters, 0.2)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_lightning(tmp_path):
    assert lossatlas.LightningRecorder, "imported first, for it mends a torchvision that does not fit torch"
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            return functional.cross_entropy(self.model(inputs), targets)

        def configure_optimizers(self):
            optimizer, schedule = halving(self.parameters())
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def fit(epochs, checkpoint=None):
        recorder = lossatlas.LightningRecorder(tmp_path / "trajectory.zarr", every=3, module="model")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(max_epochs=epochs, callbacks=[recorder], default_root_dir=tmp_path, **quiet)
        trainer.fit(Module(), DataLoader(TensorDataset(*samples()), batch_size=6), ckpt_path=checkpoint)
        return trainer

    fit(2)
    check(tmp_path / "trajectory.zarr", [0, 3, 6, 8])
    fit(1).save_checkpoint(tmp_path / "first.ckpt")
    fit(2, tmp_path / "first.ckpt")
    check(tmp_path / "trajectory.zarr", [0, 3, 4, 6, 8])


def test_transformers_trainer(tmp_path):
    recorder = lossatlas.TrainerRecorder(tmp_path / "trajectory.zarr", every=3)
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network()

        def forward(self, inputs, labels):
            return {"loss": functional.cross_entropy(self.layers(inputs), labels)}

    class InOrder(Trainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, batch_size=6, collate_fn=self.data_collator)

    def collated(rows):
        inputs, labels = zip(*rows, strict=True)
        return {"inputs": torch.stack(inputs), "labels": torch.stack(labels)}

    model = Model()
    arguments = {"num_train_epochs": 2, "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True}
    trainer = InOrder(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), max_grad_norm=0, disable_tqdm=True, **arguments),
        train_dataset=TensorDataset(*samples()),
        data_collator=collated,
        optimizers=halving(model.parameters()),
        callbacks=[recorder],
    )
    trainer.train()
    check(tmp_path / "trajectory.zarr", [0, 3, 6, 8], tolerance=1e-4)  # the Trainer rounds losses for its log


def test_accelerate(tmp_path):
    from accelerate import Accelerator

    accelerator, module = Accelerator(cpu=True), network()
    optimizer, schedule = halving(module.parameters())
    batches = DataLoader(TensorDataset(*samples()), batch_size=6)
    model, optimizer, batches, schedule = accelerator.prepare(module, optimizer, batches, schedule)
    with lossatlas.record(model, tmp_path / "trajectory.zarr", every=3, steps_per_epoch=len(batches)) as tape:
        for inputs, targets in [batch for _ in range(2) for batch in batches]:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            tape.step(loss, rate)
    check(tmp_path / "trajectory.zarr", [0, 3, 6, 8])


def test_lora_writes_the_adapters_alone(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(network(), LoraConfig(r=2, target_modules=["0"]))
    with lossatlas.record(model, tmp_path / "trajectory.zarr") as tape:
        tape.step()
    trajectory = Trajectory(tmp_path / "trajectory.zarr")
    assert trajectory.layout.size == 2 * 3 + 4 * 2
    assert all("lora_" in slot.name for slot in trajectory.layout)
    assert trajectory.frozen.size == theta(network()).size
