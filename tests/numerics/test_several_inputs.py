"""Networks that take several tensors, by name or by place, and return a mapping: losses, products and planes."""

import lossatlas
import numpy as np
import pytest
import torch
from lossatlas.backends import torch as backend
from lossatlas.data import load_dataset, read
from lossatlas.errors import LossAtlasError
from lossatlas.vision import torchvision
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

DATA = """
import numpy as np

def load(kind, long=0):
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, size=(12, 4)), rng.random((12, 4)) < 0.7
    scale, targets = rng.random(12 - (kind == "short")), rng.integers(3, size=12)
    ids[0, 0] += long
    inputs = (ids, mask, scale) if kind == "tuple" else {"ids": ids, "mask": mask, "scale": scale}
    return {"train": (inputs, targets)}
"""


class Masked(nn.Module):
    """Embeds tokens, averages those that a mask leaves, scales them, and returns a mapping."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 3)

    def forward(self, ids, mask, scale):
        assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool) and ids.ndim == 2 and scale.ndim == 1
        weights = mask.to(scale.dtype) + 0.1
        mean = (self.embed(ids) * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return {"logits": self.head(mean.tanh() * scale[:, None]), "nothing": None}


def loss(outputs, targets):
    return functional.cross_entropy(outputs["logits"], targets)


def split_of(folder, **kwargs):
    (folder / "several.py").write_text(DATA)
    return load_dataset({"import": "several:load", "kwargs": kwargs, "python_path": [str(folder)]}).train


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_oracle_2_losses_and_products_are_those_of_the_network_itself(tmp_path, kind):
    torch.manual_seed(0)
    module, split = Masked().double(), split_of(tmp_path, kind=kind)
    network = backend.FlatNetwork(module, backend.device_of(module))
    problem = backend.Problem(network, backend.as_loss(loss), split, 5)
    namespace: dict = {}
    exec(DATA, namespace)
    inputs, targets = namespace["load"]("tuple")["train"]
    tensors, targets = [torch.as_tensor(array) for array in inputs], torch.as_tensor(targets)
    names, shapes = zip(*((name, p.shape) for name, p in module.named_parameters()), strict=True)

    def value(theta):
        pieces = theta.split([shape.numel() for shape in shapes])
        parameters = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        return loss(functional_call(module, parameters, tuple(tensors)), targets)

    theta = torch.cat([p.detach().ravel() for p in module.parameters()])
    assert problem.metrics(theta.numpy(), np.zeros(0))[0] == pytest.approx(float(value(theta)), rel=1e-12)
    hessian = torch.autograd.functional.hessian(value, theta).numpy()
    for strategy in backend.PRODUCT_STRATEGIES:
        products = problem.linearize(theta.numpy(), np.zeros(0), strategy=strategy).matmat(np.eye(len(theta)))
        assert np.abs(products - hessian).max() < 1e-9 * np.abs(hessian).max(), strategy
    directions = np.random.default_rng(0).standard_normal((2, len(theta)))
    points = np.array([[0.1, 0.2], [-0.3, 0.1]])
    expected = [float(value(theta + torch.as_tensor(point @ directions))) for point in points]
    for strategy in ("eager", "folded", "first-layer", "vmapped"):
        found = problem.restrict(theta.numpy(), directions, np.zeros(0), strategy).metrics(points)
        assert np.allclose(found[:, 0], expected, rtol=1e-10), strategy
    train = {"batch_size": 12, "epochs": 1, "optimizer": "SGD", "optimizer_kwargs": {}, "learning_rate": 0.1}
    trainer = backend.TorchTrainer(backend.FlatNetwork(module, network.device), backend.as_loss(loss), split, train, 0)
    assert trainer.step(0)[0] == pytest.approx(float(value(theta)), rel=1e-12)


def test_what_does_not_go_side_by_side_is_refused(tmp_path):
    for kwargs, message in (
        ({"kind": "short"}, r"inputs have different numbers of samples \(ids: 12, mask: 12, scale: 11\)"),
        ({"kind": "dict", "long": 2**25}, "beside floating-point inputs is more than float32 holds, 16777216"),
    ):
        with pytest.raises(LossAtlasError, match=message):
            split_of(tmp_path, **kwargs)


class Language(nn.Module):
    """Scores (sample, place, token) of the next token, in a mapping, in a tuple or alone."""

    def __init__(self, form):
        super().__init__()
        self.form, self.embed, self.head = form, nn.Embedding(5, 3), nn.Linear(3, 5)

    def forward(self, input_ids, attention_mask):
        past = (self.embed(input_ids) * attention_mask[..., None]).cumsum(1)
        scores = self.head(past.tanh())
        return {"dict": {"past": past, "logits": scores}, "tuple": (scores, past), "alone": scores}[self.form]


class Sentences(torch.utils.data.Dataset):
    """Seven sentences of up to four tokens, as dicts."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rows = [rng.integers(1, 5, 2 + k % 3).tolist() for k in range(7)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return {"input_ids": self.rows[place]}


def padded(rows):
    ids = torch.tensor([row["input_ids"] + [0] * (4 - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.where(ids > 0, ids, -100)}


@pytest.mark.parametrize("form", ["dict", "tuple", "alone"])
def test_oracle_2_the_next_token_of_dicts_with_ignored_targets(form):
    torch.manual_seed(0)
    module, data = Language(form).double(), DataLoader(Sentences(), batch_size=2, collate_fn=padded)
    problem = backend.Problem(
        backend.FlatNetwork(module, backend.device_of(module)),
        backend.as_loss("next-token"),
        read(data, "data").whole(),
        3,
    )
    batch = padded([data.dataset[place] for place in range(7)])
    names, shapes = zip(*((name, p.shape) for name, p in module.named_parameters()), strict=True)

    def scores_at(theta):
        pieces = theta.split([shape.numel() for shape in shapes])
        parameters = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        outputs = functional_call(module, parameters, (batch["input_ids"], batch["attention_mask"]))
        return outputs if form == "alone" else outputs["logits" if form == "dict" else 0]

    counted = [(k, place) for k in range(7) for place in range(3) if batch["labels"][k, place + 1] >= 0]

    def value(theta):
        shares = scores_at(theta).log_softmax(-1)
        return -sum(shares[k, place, batch["input_ids"][k, place + 1]] for k, place in counted) / len(counted)

    theta = torch.cat([p.detach().ravel() for p in module.parameters()])
    hits = [scores_at(theta)[k, place].argmax() == batch["input_ids"][k, place + 1] for k, place in counted]
    loss, accuracy = problem.metrics(theta.numpy(), np.zeros(0))[:2]
    assert loss == pytest.approx(float(value(theta)), rel=1e-12) and accuracy == pytest.approx(np.mean(hits))
    assert problem.metric_names[:2] == ("loss", "accuracy") and problem.class_count == 5
    if form != "dict":  # what follows sees scores alone
        return
    hessian = torch.autograd.functional.hessian(value, theta).numpy()
    for strategy in backend.PRODUCT_STRATEGIES:
        products = problem.linearize(theta.numpy(), np.zeros(0), strategy=strategy).matmat(np.eye(len(theta)))
        assert np.abs(products - hessian).max() < 1e-9 * np.abs(hessian).max(), strategy
    directions = np.random.default_rng(0).standard_normal((2, len(theta)))
    points = np.array([[0.1, 0.2], [-0.3, 0.1]])
    wanted = [float(value(theta + torch.as_tensor(point @ directions))) for point in points]
    for strategy in ("eager", "folded", "first-layer", "vmapped"):
        found = problem.restrict(theta.numpy(), directions, np.zeros(0), strategy).metrics(points)
        assert np.allclose(found[:, 0], wanted, rtol=1e-10), strategy


def test_the_cross_entropy_takes_the_logits_of_a_mapping():
    torch.manual_seed(0)
    module, data = Language("dict").double(), read(DataLoader(Sentences(), collate_fn=padded), "data").whole()
    problem = backend.Problem(
        backend.FlatNetwork(module, backend.device_of(module)), backend.as_loss("cross-entropy"), data, 4
    )
    batch = padded([{"input_ids": row} for row in Sentences().rows])
    scores = module(batch["input_ids"], batch["attention_mask"])["logits"].reshape(-1, 5)
    expected = functional.cross_entropy(scores, batch["labels"].reshape(-1))
    theta = torch.cat([p.detach().ravel() for p in module.parameters()]).numpy()
    assert problem.metrics(theta, np.zeros(0))[0] == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(
        LossAtlasError, match=r"next-token needs tokens \(sample, place\), the targets are torch.int64 of"
    ):
        vectors = read((np.ones((4, 2)), np.arange(4)), "data")
        net = nn.Linear(2, 5)
        backend.Problem(backend.FlatNetwork(net, backend.device_of(net)), backend.as_loss("next-token"), vectors, 4)


def test_the_next_token_is_the_loss_of_a_causal_language_model_of_hugging_face():
    torchvision()  # which transformers looks for
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "use_cache": False}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=11, **size)).double().eval()
    loader = DataLoader(Sentences(), collate_fn=padded)
    with sdpa_kernel(SDPBackend.MATH):
        exact = model(**padded([loader.dataset[place] for place in range(7)])).loss  # which it computes in float32
        gradient = torch.autograd.grad(exact, list(model.parameters()), create_graph=True)
        vector = torch.randn(sum(part.numel() for part in gradient), dtype=torch.float64)
        product = torch.autograd.grad(torch.cat([part.ravel() for part in gradient]) @ vector, list(model.parameters()))
    plane = lossatlas.plane(model, "next-token", loader, points=(3, 3), batch_size=2)
    assert float(plane["loss"].sel(split="train", x=0, y=0)) == pytest.approx(float(exact.detach()), rel=1e-6)
    found = lossatlas.hessian(model, "next-token", lossatlas.sample(loader, 7), batch_size=3).matvec(vector.numpy())
    product = torch.cat([part.ravel() for part in product]).numpy()
    assert np.abs(found - product).max() < 1e-5 * np.abs(product).max()
