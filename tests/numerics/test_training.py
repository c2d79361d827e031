"""Training is a function of seed and iteration; recording and resuming change nothing (oracle 19)."""

import math

import numpy as np
import pytest
import torch
from lossatlas import zoo
from lossatlas.backends.torch import Device, FlatNetwork, TorchTrainer, build_loss, build_module, read_checkpoint
from lossatlas.data import Split
from lossatlas.drivers.training import record_training, recorded_iterations
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory, check_disk
from safetensors.torch import save_file
from torch import nn

from tests.conftest import contents

FLOAT32 = Device(torch.device("cpu"), torch.float32)
LOSS = build_loss({"name": "cross-entropy"})


def split(count=70):
    rng = np.random.default_rng(0)
    return Split(rng.standard_normal((count, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, count))


def settings(**keys):
    return {
        "optimizer": "SGD",
        "optimizer_kwargs": {"momentum": 0.9},
        "learning_rate": 0.05,
        "batch_size": 16,
        "epochs": 8,
        "record_every": 1,
        **keys,
    }


def dropout_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(196, 10)
    )


def trainer(spec, seed=0):
    torch.manual_seed(11)
    return TorchTrainer(FlatNetwork(dropout_net(), FLOAT32), LOSS, split(), spec, seed)


def begin(run_dir, made, spec):
    link = run_dir / "trajectory.zarr"
    fingerprint = store.Fingerprint("trajectory", spec)
    recording = made.network.recording(recorded_iterations(made.steps, spec["record_every"]), made.steps_per_epoch)
    found = store.find(link, run_dir, fingerprint) or store.create(link, run_dir, fingerprint, recording.build)
    return link, found


def record(run_dir, spec, seed=0, save_every=60.0):
    made = trainer(spec, seed)
    link, found = begin(run_dir, made, spec)
    steps = record_training(made, found, "train", save_every=save_every)
    found.finish({})
    store.publish(link, run_dir)
    return Trajectory(link), steps


def test_trajectory_equals_a_plain_pytorch_loop(tmp_path):
    spec = settings(epochs=2)
    trajectory, _ = record(tmp_path, spec)
    torch.manual_seed(11)
    module, made, data = dropout_net(), trainer(spec), split()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    from lossatlas import rng

    for iteration in range(10):
        rows = [
            torch.cat([p.detach().flatten() for p in module.parameters()]).numpy(),
            trajectory.parameters(iteration),
        ]
        assert np.allclose(*rows, rtol=0, atol=1e-6)
        epoch, place = divmod(iteration, 5)
        chosen = rng.generator(0, "batches", epoch).permutation(70)[place * 16 : place * 16 + 16]
        torch.manual_seed(rng.torch_seed(0, "dropout", iteration))
        module.train()
        optimizer.zero_grad()
        loss = LOSS(module(torch.tensor(data.inputs[chosen])), torch.tensor(data.targets[chosen]))
        assert trajectory.store["batch_loss"][iteration] == pytest.approx(float(loss.detach()), abs=1e-6)
        loss.backward()
        optimizer.step()
    assert made.steps_per_epoch == 5, "the ragged last batch counts"
    assert np.isnan(trajectory.store["batch_loss"][10])


SPECS = {
    "sgd": settings(),
    "adam": settings(optimizer="Adam", optimizer_kwargs={"weight_decay": 0.01}, learning_rate=1e-3),
    "one cycle": settings(schedule={"name": "OneCycleLR", "kwargs": {"max_lr": 0.1, "total_steps": 40}}),
    "every third": settings(record_every=3, schedule={"name": "StepLR", "kwargs": {"step_size": 10}}),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("stop", [0, 1, 13, 25, 26, 39])
def test_oracle_19_interrupted_and_resumed_equals_uninterrupted(tmp_path, name, stop):
    spec = SPECS[name]
    record(tmp_path / "whole", spec)
    made = trainer(spec)
    _, found = begin(tmp_path / "parts", made, spec)
    honest = made.step

    def dies(iteration):
        if iteration == stop:
            raise KeyboardInterrupt
        return honest(iteration)

    made.step = dies
    with pytest.raises(KeyboardInterrupt):
        record_training(made, found, "train", save_every=0.0 if stop in (13, 39) else 60.0)
    resumed, steps = record(tmp_path / "parts", spec)
    assert contents(tmp_path / "parts" / "trajectory.zarr") == contents(tmp_path / "whole" / "trajectory.zarr")
    if stop in (13, 39):
        assert steps == 40 - stop, "saved every iteration, so only the rest was computed"
    assert not resumed.path.resolve().with_suffix(".resume").exists()


def test_a_resume_file_of_other_settings_is_not_used(tmp_path):
    made = trainer(settings())
    _, found = begin(tmp_path, made, settings())
    found.path.with_suffix(".resume").write_bytes(b"another-fingerprint 20 20\nnonsense")
    assert record_training(made, found, "train") == 40


def test_every_nth_iteration_and_the_last_are_recorded(tmp_path):
    every, _ = record(tmp_path / "a", settings(epochs=2))
    third, _ = record(tmp_path / "b", settings(epochs=2, record_every=4))
    assert third.iterations.tolist() == [0, 4, 8, 10]
    for row, iteration in enumerate(third.iterations):
        assert np.array_equal(third.parameters(row), every.parameters(int(iteration)))
        assert np.array_equal(third.buffers(row), every.buffers(int(iteration)))
    assert np.allclose(third.store["epoch"][:], [0, 0.8, 1.6, 2.0])


def test_buffers_are_recorded(tmp_path):
    trajectory, _ = record(tmp_path, settings(epochs=1))
    assert trajectory.store.attrs["buffers"] == [["1.running_mean", [4]], ["1.running_var", [4]]]
    assert trajectory.buffers(0).tolist() == [0.0] * 4 + [1.0] * 4
    assert not np.array_equal(trajectory.buffers(1), trajectory.buffers(2))


def test_learning_rate_and_seed_matter(tmp_path):
    schedule = {"name": "CosineAnnealingLR", "kwargs": {"T_max": 5}}
    one, _ = record(tmp_path / "a", settings(epochs=1, schedule=schedule))
    expected = [0.05 * (1 + math.cos(math.pi * i / 5)) / 2 for i in range(5)]
    assert np.allclose(one.store["learning_rate"][:5], expected, rtol=1e-12)
    two, _ = record(tmp_path / "b", settings(epochs=1, schedule=schedule), seed=1)
    assert not np.array_equal(one.parameters(1), two.parameters(1))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "Sgd"}, "train.optimizer: 'Sgd' is not"),
        ({"optimizer": "LBFGS"}, "train.optimizer: 'LBFGS' is not a first-order optimiser"),
        ({"optimizer_kwargs": {"lr": 1}}, "give the learning rate as train.learning_rate"),
        ({"optimizer_kwargs": {"momentun": 1}}, "train.optimizer_kwargs: SGD refuses its arguments"),
        ({"schedule": {"name": "Cosine", "kwargs": {}}}, "train.schedule.name: 'Cosine' is not"),
        ({"schedule": {"name": "StepLR", "kwargs": {}}}, "train.schedule.kwargs: StepLR refuses"),
    ],
)
def test_bad_training_settings_are_named(keys, message):
    with pytest.raises(LossAtlasError, match=message):
        trainer(settings(**keys))


def test_a_loss_that_becomes_nan_stops_with_the_iteration_and_keeps_the_rows(tmp_path):
    spec = settings()
    made = trainer(spec)
    _, found = begin(tmp_path, made, spec)
    made.loss = lambda outputs, targets: LOSS(outputs, targets) * (np.nan if steps.append(1) or len(steps) > 30 else 1)
    steps = []
    with pytest.raises(LossAtlasError, match="loss is nan at iteration 30"):
        record_training(made, found, "train")
    assert found["batch_loss"][24] > 0
    assert not found.finished


def test_the_disk_needed_is_told_and_refused_when_missing(tmp_path, monkeypatch):
    made = trainer(settings())
    recording = made.network.recording(np.arange(41))
    per_row = 4 * (made.network.layout.size + 8)
    assert f"{41 * per_row / 1e6:.1f} MB" in check_disk(tmp_path, recording)
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(LossAtlasError, match=r"raise train.record_every or free some room"):
        check_disk(tmp_path, recording)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_users_checkpoints_are_read(tmp_path, suffix, wrapped):
    torch.manual_seed(3)
    module = zoo.builder("resnet20")()
    tensors = {("module." if wrapped else "") + name: t for name, t in module.state_dict().items()}
    file = tmp_path / f"epoch.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": tensors, "epoch": 3} if wrapped else tensors, file)
    else:
        save_file(tensors, file)
    network = FlatNetwork(build_module({"name": "resnet20", "kwargs": {}}, 0), FLOAT32)
    read_checkpoint(file, network)
    expected = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()
    assert np.array_equal(network.parameters(), expected)


def test_checkpoints_of_another_network_or_with_code_are_refused(tmp_path):
    network = FlatNetwork(build_module({"name": "resnet20", "kwargs": {}}, 0), FLOAT32)
    torch.save(zoo.builder("resnet20")(width=8).state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(LossAtlasError, match=r"'conv.weight' has shape \(8, 3, 3, 3\)"):
        read_checkpoint(tmp_path / "narrow.pt", network)
    torch.save(zoo.builder("lenet")().state_dict(), tmp_path / "lenet.pt")
    with pytest.raises(LossAtlasError, match=r"lacks 'blocks"):
        read_checkpoint(tmp_path / "lenet.pt", network)
    torch.save(zoo.builder("lenet")(), tmp_path / "pickled.pt")
    with pytest.raises(LossAtlasError, match="cannot be loaded weights-only"):
        read_checkpoint(tmp_path / "pickled.pt", network)


def test_a_batch_that_batchnorm_refuses_is_named():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))

        def forward(self, x):
            return self.net(x)

    made = TorchTrainer(FlatNetwork(Norm(), FLOAT32), LOSS, split(17), settings(), 0)
    made.step(0)
    with pytest.raises(LossAtlasError, match=r"iteration 1 with a batch of 1 samples failed .*train.batch_size"):
        made.step(1)
