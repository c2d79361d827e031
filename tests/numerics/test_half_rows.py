"""Recordings in half precision: rows are what PyTorch's types round to, within the error that the store states."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.drivers.checkpoint_import import copy_trajectory
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory

from tests.numerics.test_recorder import network, train

TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def size(path, *arrays):
    files = [file for name in arrays for file in (path / name).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return a training of 40 steps, recorded whole and in both precisions, in two goes, and what it held."""
    folder, found = tmp_path_factory.mktemp("half"), {}
    for name in (None, *TYPES):
        module, path = network(hidden=600), folder / f"{name}.zarr"
        for first, steps in ((0, 25), (25, 15)):
            with lossatlas.record(module, path, precision=name) as tape:
                assert tape.iteration == first
                states, _ = train(module, steps, tape, first=first)
                found["states"] = states if first == 0 else found["states"][:25] + states
        found[name] = path
    return found


@pytest.mark.parametrize("precision", TYPES)
def test_rows_are_rounded_as_pytorch_rounds_and_their_error_is_stated(recorded, precision):
    states, trajectory = [theta for theta, _ in recorded["states"]], Trajectory(recorded[precision])
    assert len(trajectory) == len(states) == 41 and trajectory.thetas.shape == (41, len(states[0]))
    errors = trajectory.store["parameters_error"][:]
    for row, theta in enumerate(states):
        reference = states[row - row % 32]
        found = trajectory.parameters(row)
        assert found.dtype == np.float32
        scale = trajectory.store["delta_scale"][row]
        assert np.log2(scale) % 1 == 0 and np.abs(theta - reference).max() <= scale
        rounded = torch.as_tensor((theta - reference) / scale).to(TYPES[precision]).double().numpy()
        assert np.allclose(found, reference + scale * rounded, rtol=1e-6, atol=0), row
        error = np.linalg.norm(found.astype(float) - theta) / np.linalg.norm(theta.astype(float))
        assert errors[row] == pytest.approx(error, rel=1e-4, abs=1e-12)
        assert error <= 2.0 ** -{"float16": 11, "bfloat16": 8}[precision] * scale, row
        assert np.array_equal(found, theta) == (row % 32 == 0), "differences are not kept whole by chance"
    assert 1e-7 < errors.max() < 1e-3
    blocks = np.concatenate([block.copy() for _, block in trajectory.column_blocks(slice(5, 2005), 10**4)], axis=1)
    assert np.array_equal(blocks, np.stack([trajectory.parameters(row)[5:2005] for row in range(41)]))


@pytest.mark.parametrize("precision", TYPES)
def test_half_the_bytes_and_the_same_components(recorded, precision):
    assert size(recorded[precision], "reference", "parameters_delta") < 0.56 * size(recorded[None], "parameters")
    half, whole = (Trajectory(recorded[key]) for key in (precision, None))
    error = half.precision["largest_parameters_error"] * np.linalg.norm(whole.parameters(0))
    found, exact = (np.stack([t.parameters(row) for row in range(len(t))]).astype(float) for t in (half, whole))
    values = [np.linalg.svd(rows - rows.mean(0), compute_uv=False) for rows in (found, exact)]
    assert np.abs(values[0] - values[1]).max() < 2 * error * np.sqrt(41)  # Weyl


def test_an_import_is_whole_and_says_how_it_was_recorded(recorded, tmp_path):
    trajectory = Trajectory(recorded["float16"])
    (tmp_path / ".stores").mkdir()
    recording = lossatlas.record(network(hidden=600), tmp_path / "x.zarr")._network.recording(trajectory.iterations)
    link = tmp_path / "trajectory.zarr"
    made = store.create(link, tmp_path, store.Fingerprint("trajectory", {}), recording.build)
    copy_trajectory(trajectory, made)
    made.finish({})
    copied = Trajectory(made.path)
    assert copied.store.attrs["recorded_precision"] == "float16"
    assert copied.store.attrs["largest_parameters_error"] == trajectory.store["parameters_error"][:].max()
    assert all(np.array_equal(copied.parameters(row), trajectory.parameters(row)) for row in range(41))


def test_another_precision_does_not_go_on(recorded):
    with pytest.raises(LossAtlasError, match="its buffers or its precision differ"):
        lossatlas.record(network(hidden=600), recorded["float16"], precision="bfloat16").__enter__()
    with pytest.raises(LossAtlasError, match="and the model is not what was recorded there"):
        lossatlas.record(network(hidden=600), recorded["float16"], precision="float16").__enter__()
    with pytest.raises(LossAtlasError, match="precision='half' is not one of float16, bfloat16"):
        lossatlas.record(network(), recorded["float16"], precision="half")


@pytest.mark.parametrize("precision", TYPES)
def test_rows_are_read_while_training_goes_on_and_nan_stays_nan(tmp_path, precision):
    module, path = network(), tmp_path / "x.zarr"
    with lossatlas.record(module, path, precision=precision) as tape:
        train(module, 3, tape)
        with torch.no_grad():
            module[3].bias.view(torch.int32).fill_(0x7FFFFFFF)  # what GPUs return
        tape.step()
        tape.step()
        tape.flush()
        trajectory = Trajectory(path)
        assert not trajectory.store.finished
        rows = np.stack([trajectory.parameters(row) for row in range(len(trajectory))])
        ((_, block),) = trajectory.column_blocks()
        assert len(trajectory) == 5 and np.array_equal(block, rows, equal_nan=True)
        assert np.isnan(rows).sum(axis=1).tolist() == [0, 0, 0, 0, 2]
