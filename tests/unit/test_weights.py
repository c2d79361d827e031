"""Published weights: downloaded from local files here, checked by the hash in their names, loaded but for the head."""

import hashlib
import re
from typing import get_args

import numpy as np
import pytest
import torch
from lossatlas.backends.torch import Device, FlatNetwork, build_module, read_pretrained
from lossatlas.config import models
from lossatlas.errors import LossAtlasError
from lossatlas.vision import torchvision
from lossatlas.zoo import weights

CHOICE = ("mobilenet-v2", "imagenet1k-v1")


def publish(folder, content: bytes, digest: str | None = None) -> str:
    """Write a file whose name holds its hash (or another one); return its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest or hashlib.sha256(content).hexdigest()[:8]
    file = folder / f"mobilenet_v2-{digest}.pth"
    file.write_bytes(content)
    return file.as_uri()


def test_urls_are_torchvisions_and_the_config_knows_them():
    published = torchvision().models.get_model_weights("mobilenet_v2")
    urls = {("mobilenet-v2", entry.name.lower().replace("_", "-")): entry.url for entry in published}
    assert urls == weights.URLS
    assert [("mobilenet-v2", name) for name in get_args(models.PretrainedWeights)] == list(weights.URLS)


def test_weights_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    url, root = publish(tmp_path / "server", b"weights"), tmp_path / "data"
    monkeypatch.setitem(weights.URLS, CHOICE, url)
    weights.fetch(*CHOICE, root)
    assert weights.locate(*CHOICE, root).read_bytes() == b"weights"
    (tmp_path / "server").joinpath(url.rsplit("/", 1)[1]).unlink()
    weights.fetch(*CHOICE, root)
    assert [file.name for file in root.iterdir()] == [url.rsplit("/", 1)[1]]


def refused(function, root) -> str:
    with pytest.raises(LossAtlasError) as error:
        function(*CHOICE, root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_broken_or_out_of_reach_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    root, real = tmp_path / "data", weights.URLS[CHOICE]
    text = refused(weights.locate, root)
    assert str(root / "mobilenet_v2-b0353104.pth") in text
    assert real in text
    assert f"snakemake --cores 1 {root}/.mobilenet-v2-imagenet1k-v1.ready" in text
    monkeypatch.setitem(weights.URLS, CHOICE, (tmp_path / "nowhere-0123abcd.pth").as_uri())
    assert re.search(r"downloading .*nowhere-0123abcd.pth failed \(.*No such file", refused(weights.fetch, root))
    monkeypatch.setitem(weights.URLS, CHOICE, publish(tmp_path / "server", b"torn", "0123abcd"))
    found = hashlib.sha256(b"torn").hexdigest()[:8]
    assert f"SHA-256 begins with {found}, the published one with 0123abcd" in refused(weights.fetch, root)
    assert list(root.iterdir()) == []
    (root / "mobilenet_v2-0123abcd.pth").write_bytes(b"torn")
    for function in (weights.fetch, weights.locate):
        assert f"begins with {found}, the published one with 0123abcd; delete it, then put" in refused(function, root)


def network(classes: int, seed: int = 0) -> FlatNetwork:
    spec = {"name": "mobilenet-v2", "kwargs": {"classes": classes}}
    return FlatNetwork(build_module(spec, seed), Device(torch.device("cpu"), torch.float32))


def test_all_is_loaded_but_a_head_of_other_classes(tmp_path):
    published, file = network(1000, seed=7), tmp_path / "weights.pth"
    for _, buffer in published.module.named_buffers():
        buffer.add_(2)
    torch.save(published.module.state_dict(), file)
    same, other = network(1000), network(10)
    head = other.parameters()[-1280 * 10 - 10 :]
    for flat in (same, other):
        read_pretrained(file, flat)
        assert np.array_equal(flat.buffers(), published.buffers())
    assert np.array_equal(same.parameters(), published.parameters())
    assert np.array_equal(other.parameters()[: -len(head)], published.parameters()[: -1280 * 1000 - 1000])
    assert np.array_equal(other.parameters()[-len(head) :], head)


def test_weights_of_another_network_are_refused(tmp_path):
    tensors = network(1000).module.state_dict()
    tensors["features.0.0.weight"] = torch.zeros(3, 3, 3, 3)
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(LossAtlasError, match=r"does not fit the network: .*features.0.0.weight") as error:
        read_pretrained(tmp_path / "weights.pth", network(1000))
    assert "\n" not in str(error.value)
