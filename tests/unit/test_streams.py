"""Data sets that are read when their samples are asked for: how much is read, what comes out, what is refused."""

import re

import numpy as np
import pytest
import torch
from lossatlas.data import Items, Split, evaluation_subsets, load_dataset, read, sample
from lossatlas.data.dataset import _own_dataset
from lossatlas.errors import LossAtlasError
from lossatlas.vision import torchvision
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset


class Counted(torch.utils.data.Dataset):
    """A thousand samples (x, y), x three numbers that tell which one it is; notes what is read."""

    def __init__(self, form="pair", classes=True):
        self.form, self.read = form, []
        if classes:
            self.targets = [place % 10 for place in range(1000)]

    def __len__(self):
        return 1000

    def __getitem__(self, place):
        self.read.append(place)
        x, y = torch.tensor([place, place / 2, -place]), place % 10
        if self.form == "pair":
            return x, y
        if self.form == "tuple":
            return (x, torch.tensor(place)), y
        return {"x": x, "place": place, "text": "left out", "labels": y}


class Rows:
    """What of a Hugging Face data set counts."""

    column_names = ("input_ids", "labels")

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def __getitems__(self, places):
        return [self.rows[place] for place in places]


def expected(index):
    return np.stack([[place, place / 2, -place] for place in index])


class Late(Counted):
    """Targets that are whole numbers, as Python has them, up to the seventieth."""

    def __getitem__(self, place):
        return super().__getitem__(place)[0], (1 if place < 70 else 1.5)


def test_numbers_after_whole_ones_are_not_cut_and_no_samples_are_refused():
    assert Items(Late(classes=False), "data").whole().targets.tolist() == [1.0] * 70 + [1.5] * 930
    with pytest.raises(LossAtlasError, match="data: there is no sample"):
        read(Subset(Counted(), []), "data")


@pytest.mark.parametrize("form", ["pair", "tuple", "dict"])
def test_only_the_evaluation_subset_is_read_and_it_is_that_of_arrays(form):
    stream = Counted(form)
    given = {"train": stream, "test": DataLoader(Counted(form), batch_size=7, shuffle=True)}
    subsets = evaluation_subsets(_own_dataset(given, "data", 1), {"train_samples": 150, "test_samples": 20, "seed": 3})
    arrays = Split(expected(range(1000)), np.arange(1000) % 10)
    chosen = evaluation_subsets(_own_dataset({"train": arrays}, "data", 1), {"train_samples": 150, "seed": 3})["train"]
    found = subsets["train"]
    assert np.array_equal(found.index, chosen.index) and found.stratified
    assert np.array_equal(found.samples.targets, found.index % 10)
    assert np.array_equal(found.samples.inputs[:, :3], expected(found.index))
    assert set(stream.read) == set(found.index) and len(stream.read) <= 150 + 2 * 16
    parts = {"pair": (), "tuple": [("", (3,)), ("", ())], "dict": [("x", (3,)), ("place", ())]}[form]
    assert [part[:2] for part in found.samples.parts] == list(parts)
    if parts:
        assert np.array_equal(found.samples.inputs[:, 3], found.index)
    assert len(subsets["test"]) == 20


def test_the_choice_is_uniform_where_classes_are_not_told_and_whole_data_is_whole():
    stream = Items(Counted(classes=False), "data")
    assert stream.classes is None
    subset = evaluation_subsets(
        _own_dataset({"train": Counted(classes=False)}, "data", 1), {"train_samples": 50, "seed": 0}
    )
    assert not subset["train"].stratified and len(subset["train"]) == 50
    assert np.array_equal(stream.whole().inputs, expected(range(1000)))
    assert np.array_equal(stream.spread(4).inputs, expected([0, 333, 666, 999]))


def test_classes_are_known_of_data_sets_that_keep_them():
    x, y = torch.arange(12.0), torch.arange(12) % 3
    tensors = TensorDataset(x, y)
    assert np.array_equal(Items(tensors, "data").classes, y)
    assert np.array_equal(Items(Subset(tensors, [5, 1, 4]), "data").classes, [2, 1, 1])
    rows = [{"input_ids": [k, k + 1], "label": k % 2} for k in range(6)]
    assert np.array_equal(Items(Rows(rows), "data").classes, [0, 1, 0, 1, 0, 1])
    tokens = [{"input_ids": [k, k + 1], "labels": [k, k]} for k in range(6)]
    assert Items(Rows(tokens), "data").classes is None and Items(Rows(tokens), "data").whole().targets.shape == (6, 2)
    assert read(Rows(rows), "data").whole().inputs.tolist() == [[k, k + 1] for k in range(6)]
    loader = DataLoader(tensors, sampler=SubsetRandomSampler([7, 2]))
    assert read(loader, "data").whole().inputs.tolist() == [2, 7]


def test_a_collate_function_gets_all_samples_and_pads_them():
    def pad(rows):
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.where(ids > 0, ids, -100)}

    rows = Rows([{"input_ids": [1] * (1 + k % 5)} for k in range(100)])
    split = read(DataLoader(rows, collate_fn=pad, batch_size=3), "data").of(np.arange(90, 94))
    assert split.inputs.shape == (4, 8) and split.targets.shape == (4, 4)
    assert [part.name for part in split.parts] == ["input_ids", "attention_mask"]
    assert split.targets[0].tolist() == [1, -100, -100, -100]
    with pytest.raises(LossAtlasError, match=r"different shapes .* collate_fn pads them"):
        read(Rows([{"input_ids": [1] * (1 + k % 5), "labels": 0} for k in range(9)]), "data").whole()


def test_streams_are_read_once_in_order_and_no_further():
    class Stream(IterableDataset):
        read = 0

        def __iter__(self):
            for place in range(10**9):
                Stream.read += 1
                yield torch.tensor([place]), place % 3

    subset = evaluation_subsets(_own_dataset({"train": Stream()}, "data", 1), {"train_samples": 70, "seed": 0})["train"]
    assert subset.samples.inputs[:, 0].tolist() == subset.index.tolist() == [*range(70)]
    assert Stream.read == 70 and not subset.stratified
    assert sample(DataLoader(Stream(), batch_size=8), 5).targets.tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(LossAtlasError, match="a stream has no length; only evaluation reads from it"):
        read(Stream(), "data").whole()


def test_batches_and_dicts_of_arrays_are_samples():
    batches = [(torch.ones(2, 3), torch.zeros(2)), (torch.ones(1, 3), torch.zeros(1))]
    assert read(batches, "data").inputs.shape == read(iter(batches), "data").inputs.shape == (3, 3)
    batch = {"input_ids": np.ones((4, 2), int), "attention_mask": np.ones((4, 2), int), "labels": np.arange(4)}
    assert read(batch, "data").targets.tolist() == [0, 1, 2, 3] and len(read(batch, "data").parts) == 2
    assert read(([[1, 2], [3, 4]], [0, 1]), "data").inputs.tolist() == [[1, 2], [3, 4]]
    assert sample(batches, 2).inputs.shape == (2, 3)


class Flipped(Counted):
    def __getitem__(self, place):
        x, y = super().__getitem__(place)
        return (x if torch.rand(1) < 0.5 else -x), y


class Broken(Counted):
    def __getitem__(self, place):
        raise OSError("no such disk")


class Pictures(Counted):
    def __getitem__(self, place):
        return Image.new("RGB", (4, 4)), 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Flipped(), "samples differ each time they are read (augmentation, masking?)"),
        (Broken(), "reading samples failed with OSError: no such disk"),
        (Pictures(), "Image is neither a number, an array nor a tensor; transform it into one"),
        (TensorDataset(torch.ones(9), torch.ones(9), torch.ones(9)), "got tuple of 3; several inputs"),
        (Rows([{"text": "a", "idx": 3}] * 3), "targets are one of labels, label, label_ids, targets, target, y"),
        (DataLoader(Counted(), batch_size=None), "a DataLoader without batches"),
        (TensorDataset(torch.ones(1).expand(100, 10**6), torch.ones(100)), "100 samples take 0.4 GB once read"),
        (3, "must be a pair (inputs, targets) of arrays: got int"),
        ([], "there is no batch"),
        ([(np.ones((2, 3)), np.ones(2)), (np.ones((2, 4)), np.ones(2))], "inputs of batches differ in shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(given, message):
    with pytest.raises(LossAtlasError, match=re.escape(message)) as error:
        read(given, "data: 'train'", 0.1).whole()
    assert str(error.value).startswith("data: 'train'") and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return folders of ImageNet's layout and CUB-200-2011's that hold the same images."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lists = {"images.txt": [], "image_class_labels.txt": [], "train_test_split.txt": []}
    for number in range(12):
        split, name = ("train", "val")[number % 3 == 2], ("n01", "n02")[number % 2]
        shape = [(20, 33, 3), (41, 18, 3), (9, 30, 3), (24, 24)][number % 4]
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        for folder in (root / "imagenet" / split / name, root / "cub" / "images" / name):
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number:02}.{'JPEG' if number % 2 else 'png'}")
        lists["images.txt"].append(f"{number + 1} {name}/{number:02}.{'JPEG' if number % 2 else 'png'}")
        lists["image_class_labels.txt"].append(f"{number + 1} {number % 2 + 1}")
        lists["train_test_split.txt"].append(f"{number + 1} {int(split == 'train')}")
    for name, lines in lists.items():
        (root / "cub" / name).write_text("\n".join(lines) + "\n")
    (root / "imagenet/train/n01/notes.txt").write_text("no image")
    return root


def folder_spec(folder, **given):
    shape = {"resize": 16, "crop": 12, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    return {"name": "image-folder", "kwargs": {"folder": str(folder), **shape, **given}}


@pytest.mark.parametrize("layout", ["imagenet", "cub"])
@pytest.mark.parametrize(("resize", "crop"), [(16, 12), (13, 13), (10, 15)])
def test_images_are_what_torchvision_makes_of_them(pictures, layout, resize, crop):
    vision = torchvision()
    transforms = vision.transforms
    steps = [transforms.Resize(resize), transforms.CenterCrop(crop), transforms.ToTensor()]
    made = transforms.Compose([*steps, transforms.Normalize([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])])
    data = load_dataset(folder_spec(pictures / layout, resize=resize, crop=crop))
    for split, name in ((data.train, "train"), (data.test, "val")):
        theirs = vision.datasets.ImageFolder(pictures / "imagenet" / name, made)
        found = split.whole()
        order = np.arange(len(found))
        if layout == "cub":  # in the order of its list, not of classes
            order = np.argsort(found.targets, kind="stable")
        assert (
            found.targets[order].tolist() == [target for _, target in theirs.samples] == split.classes[order].tolist()
        )
        for image, (tensor, _) in zip(found.inputs[order], theirs, strict=True):
            assert image.dtype == np.float32 and np.abs(image - tensor.numpy()).max() < 1e-6


def test_folders_that_are_no_data_are_refused(pictures, tmp_path):
    with pytest.raises(LossAtlasError, match=r"holds no images for training: neither train/<class>/ nor images.txt"):
        load_dataset(folder_spec(tmp_path))
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(LossAtlasError, match=r"x\.png: cannot be decoded as an image"):
        load_dataset(folder_spec(tmp_path)).train.whole()
    (tmp_path / "val" / "b").mkdir(parents=True)
    with pytest.raises(LossAtlasError, match="val/b is no class of train/"):
        load_dataset(folder_spec(tmp_path))
    (tmp_path / "images.txt").write_text("1 a/x.png\n")
    with pytest.raises(LossAtlasError, match=r"images\.txt without its lists of classes and splits"):
        load_dataset(folder_spec(tmp_path))
