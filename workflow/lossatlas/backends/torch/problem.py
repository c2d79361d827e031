"""The mean loss of a network over fixed samples, evaluated on the flat parameter vector."""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from lossatlas.backends.torch.batchnorm import Reestimated, has_batchnorm, statistics
from lossatlas.backends.torch.checks import fit
from lossatlas.backends.torch.hvp.hessian import TorchHessian
from lossatlas.backends.torch.hvp.products import CurvatureMatrix
from lossatlas.backends.torch.hvp.strategies import choose_products, least_bytes_of
from lossatlas.backends.torch.losses import ClassLoss, Loss, OverSamples, chosen, per_sample, recognised
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.subspace.autotune import choose_evaluation
from lossatlas.backends.torch.subspace.subspace_loss import Eager, Interpolated, Recomputed, Staged, restrict
from lossatlas.backends.torch.symmetry import interchangeable
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem import Choice, Evaluation, with_standard_error
from lossatlas.problem.base import ProblemBase
from lossatlas.problem.noise import sketches
from lossatlas.problem.protocol import Place
from lossatlas.problem.units import Group


class TorchProblem(ProblemBase):
    """The problem on PyTorch."""

    MATRIX, HESSIAN, RECOMPUTED, INTERPOLATED = CurvatureMatrix, TorchHessian, Recomputed, Interpolated

    def _take(self, loss: Loss, split: Split, batch_size: int, batchnorm: str) -> None:
        network = self.network
        self._all = inputs, targets = to_tensors(split, network)
        self.fit = fit(network, loss, self._all, self.own, batch_size, batchnorm)
        known = recognised(loss)
        self.loss = loss if known is None else OverSamples(known, targets, network.theta)
        self.each = self._loss_of_each()
        accuracy = self._weigh_classes(known)
        error = ["loss_standard_error"] if self.each is not None else []
        self.metric_names = ("loss", *accuracy, *self.own, *error)
        self.class_count = self.fit.class_count
        self.chunks = self._cut(inputs, targets, batch_size)
        self.batchnorm = "frozen"
        ends = self.chunks[0][0], self.chunks[-1][0]  # the last one may be too small
        if batchnorm == "batch" and all(has_batchnorm(network.module, chunk) for chunk in ends):
            self.batchnorm = "batch"
        self._estimates: dict[bytes, np.ndarray] = {}

    def _loss_of_each(self) -> Loss | None:
        """Return the function (outputs, targets) -> loss of each sample, None where outputs have no axis of samples."""
        if isinstance(self.loss, OverSamples):
            return self.loss.each
        return (
            None if self.fit.axes is None else per_sample(self.loss, self.fit.outputs, self.fit.targets, self.fit.axes)
        )

    def _weigh_classes(self, known: ClassLoss | None) -> list[str]:
        """Find which targets are classes that can be hit; return ``["accuracy"]`` if there are any."""
        self._known = known
        targets = self._all[1] if known is None else known.wanted(self._all[1])
        if self.fit.class_axis is None or not (valid := self._valid(targets)).any():
            return []
        self._hit_scale = 1.0 if valid.all() else targets.numel() / int(valid.sum())
        return ["accuracy"]

    def _valid(self, targets: Tensor) -> Tensor:
        # No class is negative: losses of the user's own leave such targets out.
        return (targets >= 0) & (targets != (-1 if self._known is None else self._known.ignore_index))

    def _cut(self, inputs: Tensor, targets: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
        """Return samples in pieces of up to ``most``; what would be too few at once belong to the piece before."""
        least, count = self.fit.least, len(inputs)
        if self.samples < least:
            raise LossAtlasError("data: model or loss fails on a single sample (squeeze?); give at least two")
        sizes = [max(most, least)] * (count // max(most, least))
        rest = count - sum(sizes)
        if rest >= least or not sizes:
            sizes += [rest] if rest else []
        else:
            sizes[-1] += rest
        return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))

    def pieces(self, count: int, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the chunks as products with ``count`` vectors at once take them: on a CPU cut further, to ``most``.

        Chunks that are normalised by their own statistics stay whole. An activation of a whole block that is larger
        than ``PIECE_BYTES`` leaves the caches. But each piece passes over all parameters of each vector, and so has
        at least as many entries in its largest activation as there are parameters.
        """
        most = min(most or self.samples, self._piece_size(count))
        pieces = []
        for inputs, targets in self._channels_first:
            pieces += self._cut(inputs, targets, -(-len(inputs) // -(-len(inputs) // most)))
        return pieces

    def _piece_size(self, count: int) -> int:
        whole = len(self.chunks[0][0])
        if self.network.theta.device.type != "cpu" or self.batchnorm == "batch":
            return whole
        most = max(PIECE_BYTES // count, self.layout.size * self.network.theta.element_size())
        return max(1, min(whole, most // self.largest_activation))

    @cached_property
    def largest_activation(self) -> int:
        """Bytes per sample of the largest tensor that goes into or comes out of any layer."""
        return largest_activation(self.network, self.chunks[0][0][:2])

    @cached_property
    def _channels_first(self) -> list[tuple[Tensor, Tensor]]:
        # Weight gradients of several vectors at once are slow on channels-last images.
        return [(inputs.contiguous(), targets.contiguous()) for inputs, targets in self.chunks]

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """Return up to ``count`` samples, spread evenly over all."""
        places = torch.linspace(0, self.samples - 1, min(count, self.samples)).long().to(self._all[1].device)
        return self._all[0][places], self._all[1][places]

    def interchangeable(self) -> list[Group]:
        """Return the groups of hidden units that can change places, see ``Problem``."""
        return interchangeable(self.network, self.some(2)[0])

    def metrics(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the metrics at theta, in the order of ``metric_names``."""
        self.network.load(theta=theta, buffers=buffers)
        return self.means(self.evaluate(self.chunks))

    @property
    def has_batchnorm(self) -> bool:
        """Whether the network has BatchNorm whose statistics can be estimated."""
        return has_batchnorm(self.network.module, self.chunks[0][0])

    def _restrict(self, place: Place, strategy: str, precision: str, batchnorm: str) -> Eager | Staged:
        return restrict(self, place, strategy or "eager", precision)

    def choose_evaluation(
        self,
        center: np.ndarray,
        directions: np.ndarray,
        buffers: np.ndarray,
        points: np.ndarray,
        count: int,
        strategy: str = "auto",
        precision: str = "full",
    ) -> Evaluation:
        """Return how ``count`` points are to be evaluated; see ``subspace.autotune``."""
        return choose_evaluation(self, Place(center, directions, buffers), points, count, strategy, precision)

    def gradient(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the gradient of the mean loss at theta, shape (N,), float64."""
        total = torch.zeros(self.layout.size, dtype=torch.float64, device=self.network.theta.device)
        self.network.load(theta=theta, buffers=buffers)  # a checkpointed module reads its own when it goes backward
        at = self.network.vector(theta), self.network.vector(buffers)
        for chunk in self.chunks:
            total.add_(self.chunk_gradient(*at, chunk)[1], alpha=len(chunk[0]) / self.samples)
        return total.cpu().numpy()

    def recomputed(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the flat buffers with BatchNorm's statistics estimated at theta, on all samples at once."""
        self.network.load(theta=theta)
        return self.statistics(buffers)

    def chunk_gradient(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of one chunk's mean."""
        whole, theta = self.matrix(), theta.detach().requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = self.loss(whole.outputs(whole.parts(theta), theta, buffers, chunk[0]), chunk[1])
            (gradient,) = torch.autograd.grad(value, theta)
        return value.detach(), gradient

    def choose_strategy(
        self,
        theta: np.ndarray,
        buffers: np.ndarray,
        width: int,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "auto",
        count: int | None = None,
    ) -> Choice:
        """Return how products with ``width`` vectors at once are to be computed; see ``strategies.choose_products``."""
        self.network.load(theta=theta, buffers=buffers)
        at = self.network.vector(theta), self.network.vector(buffers)
        return choose_products(self, self.matrix(operator, parameters), *at, width, memory_gb, strategy, count)

    @torch.inference_mode()
    def evaluate(self, chunks: list[tuple[Tensor, Tensor]], first: int = 0) -> Tensor:
        """Return the sums of chunks that begin with sample ``first``, at the network's parameters and buffers."""
        self.network.module.eval()
        found = []
        with statistics(self.batchnorm):
            for inputs, targets in chunks:
                found.append(self.sums(self.network.module(inputs), targets, first))
                first += len(targets)
        return sum(found, start=torch.zeros(()))

    @torch.inference_mode()
    def statistics(self, buffers: np.ndarray) -> np.ndarray:
        """Return the buffers with BatchNorm's statistics estimated at the network's present parameters.

        All samples pass at once, so that each layer's statistics are those of all samples whose earlier layers were
        normalised by the statistics of all; no chunks play a part. The latest results are kept for other problems.
        """
        key = hashlib.blake2b(self.network.parameters().tobytes() + buffers.tobytes()).digest()
        if key not in self._estimates:
            self.network.load(buffers=buffers)
            with Reestimated():
                self.network.module.eval()(torch.cat([inputs for inputs, _ in self.chunks]))
            while len(self._estimates) >= ESTIMATES:
                del self._estimates[next(iter(self._estimates))]
            self._estimates[key] = self.network.buffers()
        return self._estimates[key]

    def sums(self, outputs: Any, targets: Tensor, first: int = 0) -> Tensor:
        """Return the metrics of some samples, each times their number, float64 and on the device.

        In place of the loss's standard error there are mean and mean square of the losses of single samples; and where
        samples count by weights the mean of loss times weight. Sketches are means of losses times signs.

        Args:
            first: the number of the first sample; only sketches depend on it.
        """
        count, signed = len(targets), []
        if count < self.fit.least and self.fit.axes is not None:
            twice = torch.zeros(2, dtype=torch.long, device=targets.device)
            outputs, targets = chosen(outputs, self.fit.axes, twice), targets[twice]
        found = [self.loss(outputs, targets).double()]
        if "accuracy" in self.metric_names:
            scores, wanted = outputs, targets
            if self._known is not None:
                scores, wanted = self._known.scores(outputs, targets), self._known.wanted(targets)
            hits = (scores.argmax(self.fit.class_axis) == wanted) & self._valid(wanted)
            found.append(hits.double().mean() * self._hit_scale)
        found += [metric(outputs, targets).double() for metric in self.own.values()]
        if self.each is not None:
            each = self.each(outputs, targets).double()
            found += [each.mean(), each.square().mean()]
            found += [(each * weighted.shares(targets)).mean()] if (weighted := self._weighted) else []
            if self.signs is not None:
                signed = [each[:count] @ self.signs[first : first + count] / count]
        return torch.cat([torch.stack(found), *signed]) * count

    @property
    def _weighted(self) -> OverSamples | None:
        return self.loss if isinstance(self.loss, OverSamples) and not self.loss.uniform else None

    def means(self, sums: Tensor) -> np.ndarray:
        """Return the metrics of all samples from ``sums`` added up over the chunks; one copy to the host."""
        means = (sums / self.samples).cpu().numpy()
        if self.each is None:
            return means
        columns = 0 if self.signs is None else self.signs.shape[1]
        means, signed = np.split(means, [means.shape[-1] - columns], axis=-1)
        if weighted := self._weighted:
            means = self._about_mean(means, weighted.shares(self._all[1]))
        found = with_standard_error(means, self.samples)
        return np.concatenate([found, self._sketches(signed, found[..., 0])], axis=-1) if columns else found

    def _sketches(self, signed: np.ndarray, mean: np.ndarray) -> np.ndarray:
        weighted = self._weighted
        shares = weighted.shares(self._all[1]) if weighted else self.signs.new_ones(self.samples)
        balance = (shares @ self.signs / self.samples).cpu().numpy()
        return sketches(signed, mean, balance, int((shares > 0).sum()))

    def _signs(self, signs: np.ndarray) -> Tensor:
        return torch.as_tensor(signs, device=self.network.theta.device)

    def _about_mean(self, means: np.ndarray, shares: Tensor) -> np.ndarray:
        """Return the mean square that gives the standard error of a ratio of two means: of loss less weight times mean.

        With weights of 0 and 1 that is sd / sqrt(n) of the n samples that count.
        """
        mean, square, product = np.moveaxis(means[..., -3:], -1, 0)
        counted, n = int((shares > 0).sum()), self.samples
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            variance = square - 2 * mean * product + mean**2 * float(shares.square().mean())
            variance *= np.float64(counted * (n - 1)) / (n * (counted - 1))
            return np.concatenate([means[..., :-3], np.stack([mean, variance + mean**2], axis=-1)], axis=-1)

    def cut(self, most: int) -> list[tuple[Tensor, Tensor]]:
        """Return all samples in pieces of one size, up to ``most`` or the chunks' size, whichever is more.

        The last piece has fewer targets; its inputs are filled up with samples from the beginning.
        """
        pieces = -(-self.samples // max(most, len(self.chunks[0][0])))
        size = -(-self.samples // pieces)
        *whole, (inputs, targets) = zip(*(part.split(size) for part in self._all), strict=True)
        if whole:
            last, rest = torch.empty_like(whole[0][0]), size - len(inputs)
            last[: len(inputs)], last[len(inputs) :] = inputs, self._all[0][:rest]
            inputs = last
        return [*whole, (inputs, targets)]


def to_tensors(split: Split, network: FlatNetwork) -> tuple[Tensor, Tensor]:
    """Return inputs and targets on the network's device; floating-point ones in its precision."""
    network.take_apart(split.parts)
    tensors = []
    for array in (split.inputs, split.targets):
        tensor = torch.as_tensor(array).to(network.device.device)
        tensors.append(tensor.to(network.device.dtype) if tensor.is_floating_point() else tensor)
    if tensors[0].ndim == 4:
        tensors[0] = _as_fast_images(tensors[0], network.module)
    if not tensors[1].is_floating_point():
        tensors[1] = tensors[1].long()  # what class losses ask for
    return tensors[0], tensors[1]


@torch.no_grad()
def _as_fast_images(images: Tensor, module: nn.Module) -> Tensor:
    """Return images channels-last, on which convolutions run fastest, unless only plain ones go through the network.

    Values and results stay the same. A network that flattens by ``view`` needs plain ones.
    """
    fast = images.contiguous(memory_format=torch.channels_last)
    module.eval()
    try:
        module(fast[:2])
    except Exception:
        try:
            module(images[:2].contiguous())
        except Exception:
            return fast  # what is wrong is another thing
        return images.contiguous()
    return fast


ESTIMATES = 256
"""Points whose statistics of BatchNorm are kept: those of a unit, which all splits need."""

PIECE_BYTES = 16 * 2**20
"""Largest activation of a piece of samples and a block of vectors, in bytes."""


@torch.inference_mode()
def largest_activation(network: FlatNetwork, inputs: Tensor) -> int:
    """Return the bytes per sample of the largest tensor that goes into or comes out of any layer."""
    sizes = [inputs[0].numel()]

    def note(_layer: nn.Module, _inputs: tuple, output: object) -> None:
        sizes.extend(t.numel() // len(inputs) for t in tree_leaves(output) if isinstance(t, Tensor))

    hooks = [layer.register_forward_hook(note) for layer in network.module.modules()]
    try:
        network.module.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, *sizes) * network.theta.element_size()


def least_product_bytes(network: FlatNetwork, loss: Loss, train: Split, spec: dict) -> int:
    """Return the bytes that Hessian products need at least, found with the samples of one piece.

    Args:
        spec: the keys ``PRODUCT_CHOICES`` of ``lossatlas.problem.protocol``, with ``batch_size`` and ``batchnorm``.
    """
    chunk = spec["batch_size"] if spec["batchnorm"] == "batch" else 4
    own = FlatNetwork(network.module, network.device)  # what is evaluated here is not what is trained
    places = np.linspace(0, len(train) - 1, min(chunk, len(train))).astype(int)
    few = train.of(places)
    problem = TorchProblem(own, loss, few, chunk, spec["batchnorm"])
    matrix = problem.matrix(spec.get("operator", "hessian"), tuple(spec.get("parameters", ["*"])))
    at = own.theta.clone(), own.vector(own.buffers())
    return least_bytes_of(problem, matrix, *at, spec["strategy"], spec["memory_gb"] * 2**30)
