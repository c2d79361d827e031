"""The embedded images, the readers of downloaded datasets on small files of their layouts, the evaluation subset."""

import gzip
import hashlib
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from lossatlas.data import Dataset, Split, evaluation_subsets, load_dataset
from lossatlas.data import dataset as dataset_module
from lossatlas.data.downloaded import fetch
from lossatlas.data.subset import choose
from lossatlas.errors import LossAtlasError
from lossatlas.vision import torchvision

MINI = {"name": "fashion-mnist-mini", "kwargs": {}}


def test_embedded_data_is_small_balanced_and_shown_like_cifar():
    assert dataset_module.EMBEDDED.stat().st_size < 3e6
    data = load_dataset(MINI)
    for split, count in ((data.train, 400), (data.test, 100)):
        assert split.inputs.shape == (10 * count, 3, 32, 32)
        assert split.inputs.dtype == np.float32
        assert (np.bincount(split.targets) == count).all()
        assert np.array_equal(split.inputs[:, 0], split.inputs[:, 2])
        assert (split.inputs[:, :, :2] == split.inputs[0, 0, 0, 0]).all(), "two black rows on top"
    assert abs(data.train.inputs[:, :, 2:-2, 2:-2].mean()) < 0.02
    assert abs(data.train.inputs[:, :, 2:-2, 2:-2].std() - 1) < 0.02
    for name in ("LICENSE", "README.md", "make.py"):
        assert (dataset_module.EMBEDDED.parent / name).is_file()


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_fashion_mnist_is_read_from_the_original_gzipped_files(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng, resources = np.random.default_rng(0), []
    images = {name: rng.integers(0, 256, (n, 28, 28), np.uint8) for name, n in (("train", 6), ("t10k", 4))}
    for name, array in images.items():
        for part, content in (("images-idx3", array), ("labels-idx1", np.arange(len(array), dtype=np.uint8))):
            file = raw / f"{name}-{part}-ubyte.gz"
            file.write_bytes(gzip.compress(idx(content)))
            resources.append((file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision().datasets.FashionMNIST, "resources", resources)
    fetch("fashion-mnist", tmp_path)
    data = load_dataset({"name": "fashion-mnist", "kwargs": {}, "data_root": str(tmp_path)})
    assert data.train.inputs.shape == (6, 3, 32, 32)
    assert data.test.targets.tolist() == [0, 1, 2, 3]
    grey = data.train.inputs[3, 1, 2:-2, 2:-2] * 0.3530 + 0.2860
    assert np.allclose(grey * 255, images["train"][3], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "folder", "key"),
    [("cifar10", "cifar-10-batches-py", "labels"), ("cifar100", "cifar-100-python", "fine_labels")],
)
def test_cifar_is_unpacked_checked_and_read(tmp_path, monkeypatch, name, folder, key):
    rng, kind = np.random.default_rng(1), getattr(torchvision().datasets, name.upper())
    batches = [file for file, _ in kind.train_list] + [kind.test_list[0][0]]
    (tmp_path / "make" / folder).mkdir(parents=True)
    digests, pixels = {}, {}
    for batch in batches:
        pixels[batch] = rng.integers(0, 256, (3, 3072), np.uint8)
        digests[batch] = dump(tmp_path / "make" / folder / batch, {"data": pixels[batch], key: [0, 1, 2]})
    meta = kind.meta["filename"]
    digests[meta] = dump(tmp_path / "make" / folder / meta, {kind.meta["key"]: ["a", "b", "c"]})
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / kind.filename, "w:gz") as archive:
        archive.add(tmp_path / "make" / folder, folder)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5((root / kind.filename).read_bytes()).hexdigest())
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[file, digests[file]] for file, _ in getattr(kind, part)])
    monkeypatch.setitem(dataset_module.downloaded.MD5, name, digests)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": digests[meta]})
    fetch(name, root)
    data = load_dataset({"name": name, "kwargs": {}, "data_root": str(root)})
    assert data.train.inputs.shape == (3 * len(kind.train_list), 3, 32, 32)
    mean, std = (np.array(m) for m in dataset_module.downloaded.MOMENTS[name])
    back = (data.train.inputs[1] * std[:, None, None] + mean[:, None, None]) * 255
    assert np.allclose(back.reshape(-1), pixels[batches[0]][1], atol=1e-3)


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("name", "first"), [("cifar10", "cifar-10-batches-py/data_batch_1"), ("cifar100", "cifar-100-python/train")]
)
def test_a_foreign_pickle_is_refused_before_it_runs(tmp_path, name, first):
    (tmp_path / first).parent.mkdir()
    dump(tmp_path / first, Runs(str(tmp_path / "ran")))
    with pytest.raises(LossAtlasError, match=f"{first}: damaged or foreign, its MD5 is"):
        load_dataset({"name": name, "kwargs": {}, "data_root": str(tmp_path)})
    assert not (tmp_path / "ran").exists()


def test_digests_of_pickled_files_are_those_that_torchvision_knows():
    for name, digests in dataset_module.downloaded.MD5.items():
        kind = getattr(torchvision().datasets, name.upper())
        assert digests == dict([*kind.train_list, *kind.test_list])


def dump(file, content):
    file.write_bytes(pickle.dumps(content))
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_missing_dataset_names_the_folder_and_the_files(tmp_path, name):
    with pytest.raises(LossAtlasError) as error:
        load_dataset({"name": name, "kwargs": {}, "data_root": str(tmp_path)})
    text = str(error.value)
    assert str(tmp_path) in text
    assert dataset_module.downloaded.FILES[name] in text
    assert "\n" not in text


def test_subset_is_stratified_fixed_and_ascending():
    targets = np.repeat(np.arange(4), [10, 20, 30, 41])
    split = Split(np.arange(101.0)[:, None], targets)
    first, again, other = choose(split, 50, 0, "a"), choose(split, 50, 0, "a"), choose(split, 50, 1, "a")
    assert len(first) == 50
    assert first.digest == again.digest != other.digest
    assert (np.diff(first.index) > 0).all()
    shares = np.bincount(targets[first.index]) / 50
    assert np.abs(shares - np.bincount(targets) / 101).max() <= 1 / 50
    assert np.array_equal(first.samples.inputs[:, 0], first.index)


def test_subset_of_regression_targets_is_uniform_and_capped():
    split = Split(np.zeros((5, 2)), np.linspace(0, 1, 5))
    subset = choose(split, 99, 0, "a")
    assert subset.index.tolist() == [0, 1, 2, 3, 4]
    assert not subset.stratified


def test_test_samples_of_a_dataset_without_test_set_are_refused():
    data = Dataset(Split(np.zeros((5, 2)), np.zeros(5)))
    spec = {"train_samples": 5, "test_samples": 3, "seed": 0}
    with pytest.raises(LossAtlasError, match=r"evaluation.test_samples: 3, but the dataset has no test set"):
        evaluation_subsets(data, spec)
    assert list(evaluation_subsets(data, {**spec, "test_samples": 0})) == ["train"]
