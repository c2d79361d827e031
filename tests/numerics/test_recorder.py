"""A user's own training loop, recorded: rows are what the loop held, whatever ends it."""

import os
import signal
import subprocess
import sys

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.errors import LossAtlasError
from lossatlas.io import growing
from lossatlas.io.trajectory import Trajectory
from torch import nn
from torch.nn import functional

from tests.conftest import environment


def network(frozen=True, hidden=4):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, 2))
    module[0].weight.requires_grad_(not frozen)
    return module


def train(module, steps, tape=None, first=0):
    """Take steps of SGD; return theta, the running statistics before each and at the end, and the losses."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    states, losses = [held(module)], []
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs, targets = torch.randn(8, 3, generator=generator), torch.randint(2, (8,), generator=generator)
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()
        optimizer.step()
        if tape:
            tape.step(loss, learning_rate=0.1)
        states.append(held(module))
        losses.append(loss.item())
    return states, losses


def held(module):
    trained = [p.detach().numpy().ravel() for p in module.parameters() if p.requires_grad]
    statistics = [module[1].running_mean.numpy(), module[1].running_var.numpy()]
    return np.concatenate(trained), np.concatenate(statistics)


def check(trajectory, states, losses, first=0):
    """Compare rows with what the loop held; states and losses begin at iteration ``first``."""
    for row, iteration in enumerate(trajectory.iterations):
        if iteration >= first:
            assert np.array_equal(trajectory.parameters(row), states[iteration - first][0]), iteration
            assert np.array_equal(trajectory.buffers(row), states[iteration - first][1]), iteration
            known = losses[iteration - first] if iteration < first + len(losses) else np.nan
            assert np.isclose(trajectory.store["batch_loss"][row], known, rtol=1e-6, equal_nan=True), iteration


def test_rows_are_what_the_loop_held_and_training_is_as_without(tmp_path):
    module, path = network(), tmp_path / "mine" / "trajectory.zarr"
    with lossatlas.record(module, path, every=3, steps_per_epoch=4) as tape:
        states, losses = train(module, 10, tape)
    undisturbed, _ = train(network(), 10)
    assert all(np.array_equal(a, b) for one, other in zip(states, undisturbed, strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip
    trajectory = Trajectory(path)
    assert trajectory.store.finished
    assert trajectory.iterations.tolist() == [0, 3, 6, 9, 10]
    check(trajectory, states, losses)
    assert np.array_equal(trajectory.frozen, module[0].weight.detach().numpy().ravel())
    assert [slot.name for slot in trajectory.layout] == ["0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert np.array_equal(trajectory.store["epoch"][:], np.array([0, 3, 6, 9, 10]) / 4)
    assert np.allclose(trajectory.store["learning_rate"][:], [0.1] * 4 + [np.nan], equal_nan=True)


def test_arrays_grow_by_blocks_and_a_second_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "BLOCK_ROWS", 4)
    module, path = network(), tmp_path / "trajectory.zarr"
    with lossatlas.record(module, path) as tape:
        states, losses = train(module, 11, tape)
        tape.flush()
        assert len(Trajectory(path)) == 11, "readable while training goes on"
    with lossatlas.record(module, path, every=2) as tape:
        assert tape.iteration == 11
        more, later = train(module, 8, tape, first=11)
    trajectory = Trajectory(path)
    assert trajectory.iterations.tolist() == [*range(12), 12, 14, 16, 18, 19]
    check(trajectory, [*states[:-1], *more], losses + later)
    with lossatlas.record(module, path, start=3) as tape:  # as from a checkpoint
        anew, _ = train(module, 1, tape, first=3)
    assert Trajectory(path).iterations.tolist() == [0, 1, 2, 3, 4]
    check(Trajectory(path), [*states[:3], *anew], [*losses[:3], *_])


def test_what_ends_training_leaves_what_was_recorded(tmp_path):
    module, path = network(), tmp_path / "trajectory.zarr"
    with pytest.raises(ZeroDivisionError), lossatlas.record(module, path, every=2) as tape:
        states, losses = train(module, 5, tape)
        raise ZeroDivisionError
    assert Trajectory(path).iterations.tolist() == [0, 2, 4]
    check(Trajectory(path), states, losses)


KILLED = """
import os, signal, sys
import lossatlas
from tests.numerics.test_recorder import network, train

module = network()
with lossatlas.record(module, sys.argv[1], every=2) as tape:
    train(module, 7, tape)
    tape.flush()
    train(module, 4, tape, first=7)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_leaves_a_readable_store_that_is_continued(tmp_path):
    path = tmp_path / "trajectory.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=with_tests(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    states, losses = train(network(), 11)
    trajectory = Trajectory(path)
    rows = trajectory.iterations.tolist()
    assert rows[:4] == [0, 2, 4, 6] and rows == list(range(0, 2 * len(rows), 2))
    check(trajectory, states, losses)
    module = network()
    train(module, 5)  # what the user's checkpoint held
    with lossatlas.record(module, path, every=2, start=5) as tape:
        train(module, 6, tape, first=5)
    assert Trajectory(path).iterations.tolist() == [0, 2, 4, 5, 6, 8, 10, 11]
    check(Trajectory(path), states, losses)


def with_tests():
    root = os.path.abspath(f"{__file__}/../../..")
    return environment(PYTHONPATH=f"{root}:{root}/workflow")


@pytest.mark.parametrize(
    ("model", "choices", "message"),
    [
        (lambda: network(hidden=5), {}, r"holds another model: parameter '0.bias' is \(4,\) there and \(5,\) here"),
        (lambda: network(frozen=False), {}, r"parameter '0.weight' is frozen \(4, 3\) there and \(4, 3\) here"),
        (lambda: network().double(), {}, "its buffers or its precision differ"),
        (network, {}, "ends at iteration 2, and the model is not what was recorded there; give start="),
        (network, {"every": 0}, "every=0 must be a whole number, at least 1"),
        (network, {"start": -1}, "start=-1 must be a whole number, at least 0"),
    ],
)
def test_what_does_not_go_on_is_one_line(tmp_path, model, choices, message):
    module, path = network(), tmp_path / "trajectory.zarr"
    with lossatlas.record(module, path) as tape:
        train(module, 2, tape)
    with pytest.raises(LossAtlasError, match=message) as error, lossatlas.record(model(), path, **choices):
        pass
    assert "\n" not in str(error.value)
    assert Trajectory(path).store.finished and len(Trajectory(path)) == 3


def test_other_frozen_parameters_and_foreign_paths_are_refused(tmp_path):
    module, path = network(), tmp_path / "trajectory.zarr"
    with lossatlas.record(module, path):
        pass
    other = network()
    other[0].weight.data += 1
    with pytest.raises(LossAtlasError, match="other frozen parameters"), lossatlas.record(other, path):
        pass
    (tmp_path / "full.zarr").mkdir()
    with pytest.raises(LossAtlasError, match="is there already, and no recording"):
        lossatlas.record(module, tmp_path / "full.zarr").__enter__()
    with pytest.raises(LossAtlasError, match=r"must end in \.zarr"):
        lossatlas.record(module, tmp_path / "mine")
    with pytest.raises(LossAtlasError, match=r"write `with lossatlas\.record"):
        lossatlas.record(module, path).step()
    with lossatlas.record(module, path) as tape:
        (tmp_path / "again.py").write_text(
            "import sys, lossatlas\nfrom tests.numerics.test_recorder import network\n"
            "lossatlas.record(network(), sys.argv[1]).__enter__()\n"
        )
        done = subprocess.run([sys.executable, str(tmp_path / "again.py"), str(path)], env=with_tests(), stderr=-1)
        assert f"process {os.getpid()} is recording into".encode() in done.stderr, done.stderr
        tape.step()


SEVERAL = """
import os, sys
import lossatlas, numpy as np, torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from tests.numerics.test_recorder import held, network, train

distributed.init_process_group("gloo")
module = network(frozen=False)
if sys.argv[2] == "sharded":
    wrapped = fully_shard(module)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
else:
    wrapped = DistributedDataParallel(module)
optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
with lossatlas.record(wrapped, sys.argv[1], every=2) as tape:
    for step in range(5):
        generator = torch.Generator().manual_seed(10 * step + distributed.get_rank())
        inputs = torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        loss = wrapped(inputs).square().mean()
        loss.backward()
        optimizer.step()
        tape.step(loss)
assert tape.iteration == 5
whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.parameters()]
if distributed.get_rank() == 0:
    np.save(sys.argv[1] + ".npy", torch.cat([p.detach().ravel() for p in whole]).numpy())
try:
    lossatlas.record(network(frozen=False, hidden=5), sys.argv[1]).__enter__()
except lossatlas.LossAtlasError as error:
    print(f"rank {distributed.get_rank()}: {error}", flush=True)
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_of_several_processes_the_first_one_writes(tmp_path, kind):
    path, ranks = tmp_path / "trajectory.zarr", []
    for rank in range(2):
        told = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(tmp_path)}
        command = [sys.executable, "-c", SEVERAL, str(path), kind]
        ranks.append(subprocess.Popen(command, env={**with_tests(), **told}, stdout=-1, stderr=-1, text=True))
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    trajectory = Trajectory(path)
    assert trajectory.iterations.tolist() == [0, 2, 4, 5]
    assert np.array_equal(trajectory.parameters(3), np.load(f"{path}.npy"))
    first = torch.cat([p.detach().ravel() for p in network(frozen=False).parameters()])
    assert np.array_equal(trajectory.parameters(0), first.numpy())
    assert np.isfinite(trajectory.store["batch_loss"][:3]).all()
    assert all("holds another model: parameter '0.weight'" in out for out, _ in said)


def free_port(folder):
    """Return a port that was free a moment ago, the same one for all ranks of a test."""
    import socket

    file = folder / "port"
    if not file.exists():
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            file.write_text(str(found.getsockname()[1]))
    return file.read_text()


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "lossatlas.backends.torch.lightning", raising=False)
    with pytest.raises(LossAtlasError, match="LightningRecorder: needs the package 'lightning'; pip install lightning"):
        _ = lossatlas.LightningRecorder
