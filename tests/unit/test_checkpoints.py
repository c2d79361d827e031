"""Which iterations checkpoints are: from their names, the config, what lies in them, or a recorded trajectory."""

import json
from argparse import Namespace

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.config import checkpoints
from lossatlas.config.models import Checkpoints
from lossatlas.drivers.base import Order
from lossatlas.drivers.checkpoint_import import CheckpointImport
from lossatlas.errors import LossAtlasError
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, World
from torch import nn


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["runs/step0.pt", "runs/step5.pt", "runs/step10.pt"], [0, 5, 10]),
        (["epoch=0-step=40.ckpt", "epoch=1-step=80.ckpt"], [40, 80]),
        (["out3/checkpoint-50/model.safetensors", "out3/checkpoint-100/model.safetensors"], [50, 100]),
        (["epoch0-loss=0.75.pt", "epoch1-loss=0.25.pt"], [0, 1]),
        (["net_iter_000100.weights.h5", "net_iter_000200.weights.h5"], [100, 200]),
        (["resnet50-1.pt", "resnet50-2.pt"], [1, 2]),
        (["model.9.pt", "model.10.pt"], [9, 10]),
        (["a.pt", "b.pt"], None),
        (["2.pt", "1.pt"], None),
        (["resnet50.pt"], None),
        (["step7.pt"], [7]),
    ],
)
def test_iterations_in_names(files, expected):
    assert checkpoints.named_iterations(files) == expected


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(files, message, **keys):
        with pytest.raises(LossAtlasError, match=message) as error:
            checkpoints.iterations(Checkpoints(files=files, **keys), files, "runs.a.checkpoints")
        assert "\n" not in str(error.value)

    (tmp_path / "t.zarr").mkdir()
    refused(
        ["t.zarr"], r"runs\.a\.checkpoints\.files: 't\.zarr' is a store of kind 'unknown', no trajectory; give what"
    )
    refused(["t.zarr", "1.pt"], "2 files, one a .zarr; give it alone")
    refused(["1.pt", "2.pt"], r"runs\.a\.checkpoints\.iterations: 3 numbers for 2 files", iterations=[1, 2, 3])
    refused(["t.zarr"], "losses: a recorded trajectory has its own; leave it out", losses=[1.0])
    attributes = {"provenance": {"kind": "landscape"}, "finished": True}
    (tmp_path / "t.zarr/zarr.json").write_text(json.dumps({"attributes": attributes}))
    refused(["t.zarr"], "a store of kind 'landscape', no trajectory")
    with lossatlas.record(nn.Linear(2, 1), "mine/t.zarr", every=2) as tape:
        for step in range(5):
            tape.step(float(step))
    assert checkpoints.iterations(Checkpoints(files="mine/t.zarr"), ["mine/t.zarr"], "") == [0, 2, 4, 5]
    with lossatlas.record(nn.Linear(2, 1), "mine/t.zarr", start=0):
        refused(["mine/t.zarr"], "'mine/t.zarr' holds no iteration yet")


NETWORK = """
from torch import nn

def make(width=2):
    layers = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1, bias=False))
    nn.init.constant_(layers[0].weight, 3.0)
    layers[0].requires_grad_(False)
    return layers
"""

SPEC = {"seed": 0, "backend": "torch", "dtype": "float32"}


def imported(folder, files, width=2, **checkpoints):
    """Do what the job does, in this process; return the trajectory."""
    (folder / "net.py").write_text(NETWORK)
    model = {"import": "net:make", "kwargs": {"width": width}, "python_path": [str(folder)]}
    spec = {**SPEC, "model": model, "checkpoints": checkpoints}
    files = [folder / file for file in files]
    args = Namespace(spec=spec, files=files, needs={}, output=folder / "run/trajectory.zarr", run_dir=folder / "run")
    order, alone = Order.of(Namespace(**vars(args), label="t", fresh=False)), World()
    job = CheckpointImport.read(args, alone)
    store = job.prepare(order, alone, Timing())
    if not store.finished:
        job.compute(store, order, alone, Timing())
        job.finish(store, {})
    return Trajectory(store.path)


def test_steps_and_losses_lie_in_the_files_and_adapters_over_a_frozen_base(tmp_path):
    """The files hold the trained layer alone, under the names of the LightningModule around the network."""
    for name, step in (("a", 0), ("b", 5), ("c", 15)):
        weights = {"model.1.weight": torch.full((1, 2), float(step))}
        torch.save({"state_dict": weights, "global_step": step, "loss": step / 2}, tmp_path / f"{name}.ckpt")
    found = imported(tmp_path, ["a.ckpt", "b.ckpt", "c.ckpt"])
    assert found.iterations.tolist() == [0, 5, 15]
    assert found.store["parameters"][:].tolist() == [[0, 0], [5, 5], [15, 15]]
    assert found.store["batch_loss"][:].tolist() == [0, 2.5, 7.5]
    assert found.frozen[:4].tolist() == [3, 3, 3, 3]
    found = imported(tmp_path, ["c.ckpt", "a.ckpt"], losses=[2.0, 1.0])
    assert found.iterations.tolist() == [0, 1], "what lies in them does not ascend"
    assert found.store["batch_loss"][:].tolist() == [2, 1]
    assert imported(tmp_path, ["c.ckpt", "a.ckpt"], iterations=[7, 9]).iterations.tolist() == [7, 9]
    torch.save({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, tmp_path / "base.pt")
    with pytest.raises(LossAtlasError, match=r"base\.pt lacks '1\.weight'"):
        imported(tmp_path, ["base.pt"])


def test_frozen_parameters_are_those_of_the_recording_and_another_model_is_named(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    module[0].requires_grad_(False)
    with lossatlas.record(module, tmp_path / "mine.zarr") as tape:
        tape.step(1.5)
    found = imported(tmp_path, ["mine.zarr"])
    assert np.array_equal(found.frozen[:4], module[0].weight.numpy().ravel()), "the builder's are threes"
    assert found.store["batch_loss"][0] == 1.5
    told = r"from another network than it builds: parameter '1\.weight' is \(1, 2\) there and \(1, 3\) here"
    with pytest.raises(LossAtlasError, match=rf"model: .*mine\.zarr was recorded {told}"):
        imported(tmp_path, ["mine.zarr"], width=3)
