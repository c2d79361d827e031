"""The mean loss of a network over fixed samples, evaluated on the flat parameter vector."""

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from lossatlas.backends.torch.batchnorm import BATCHNORM, Reestimated, has_batchnorm, statistics
from lossatlas.backends.torch.build import Loss, per_sample
from lossatlas.backends.torch.calibration import Evaluation, choose_evaluation
from lossatlas.backends.torch.hessian import TorchHessian
from lossatlas.backends.torch.network import FlatNetwork
from lossatlas.backends.torch.products import Curvature
from lossatlas.backends.torch.restriction import Eager, Interpolated, Recomputed, Staged, restrict
from lossatlas.backends.torch.strategies import Choice, choose
from lossatlas.data import Split, Subset
from lossatlas.errors import LossAtlasError
from lossatlas.problem import with_standard_error


class TorchProblem:
    """A ``Problem`` on PyTorch; see there. Samples are cut into chunks once and stay on the device.

    Args:
        batch_size: samples per chunk; a last one that is smaller weighs less.
        batchnorm: ``frozen``, BatchNorm normalises by the buffers that belong to theta, or ``batch``, by mean and
            variance over the samples of each chunk: another loss, in which the chunks matter. Buffers are then not
            read. Networks without BatchNorm have one loss.

        metrics: more to evaluate besides, by name: functions (outputs, targets) -> mean over the samples.

    Raises:
        LossAtlasError: the network does not accept the samples, or loss or metrics do not accept its outputs.
    """

    def __init__(
        self,
        network: FlatNetwork,
        loss: Loss,
        split: Split,
        batch_size: int,
        batchnorm: str = "frozen",
        metrics: dict[str, Loss] | None = None,
    ):
        if batchnorm not in BATCHNORM:
            raise LossAtlasError(f"batchnorm: {batchnorm!r} is not one of {', '.join(BATCHNORM)}")
        self.network, self.loss = network, loss
        self.layout = network.layout
        self.samples = len(split)
        inputs, targets = to_tensors(split, network)
        if loss is functional.cross_entropy and not targets.is_floating_point() and int(targets.min()) < 0:
            raise LossAtlasError(f"loss: cross-entropy of the class {int(targets.min())}; classes count from 0")
        self._all = inputs, targets
        self.chunks = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        self.own = metrics or {}
        self.class_axis, self.each = probe(network, loss, inputs, targets, self.own)
        accuracy = ["accuracy"] if self.class_axis is not None else []
        error = ["loss_standard_error"] if self.each is not None else []
        self.metric_names = ("loss", *accuracy, *self.own, *error)
        self.batchnorm = "frozen"
        ends = self.chunks[0][0], self.chunks[-1][0]  # the last one may be too small
        if batchnorm == "batch" and all(has_batchnorm(network.module, chunk) for chunk in ends):
            self.batchnorm = "batch"
        self._curvatures: dict[tuple, Curvature] = {}
        self._strategies: dict[Curvature, str] = {}
        self._estimates: dict[bytes, np.ndarray] = {}

    def pieces(self, count: int, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the chunks as products with ``count`` vectors at once take them: on a CPU cut further, to ``most``.

        Chunks that are normalised by their own statistics stay whole. An activation of a whole block that is larger
        than ``PIECE_BYTES`` leaves the caches; beyond 32 MiB the C library maps fresh pages for every one.
        """
        most = min(most or self.samples, self._piece_size(count))
        pieces = []
        for inputs, targets in self._channels_first:
            size = -(-len(inputs) // -(-len(inputs) // most))
            pieces += zip(inputs.split(size), targets.split(size), strict=True)
        return pieces

    def _piece_size(self, count: int) -> int:
        whole = len(self.chunks[0][0])
        if self.network.theta.device.type != "cpu" or self.batchnorm == "batch":
            return whole
        return max(1, min(whole, PIECE_BYTES // (count * self.largest_activation)))

    @cached_property
    def largest_activation(self) -> int:
        """Bytes per sample of the largest tensor that goes into or comes out of any layer."""
        return largest_activation(self.network, self.chunks[0][0][:2])

    @cached_property
    def _channels_first(self) -> list[tuple[Tensor, Tensor]]:
        # Weight gradients of several vectors at once are slow on channels-last images.
        return [(inputs.contiguous(), targets.contiguous()) for inputs, targets in self.chunks]

    def metrics(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the metrics at theta, in the order of ``metric_names``."""
        self.network.load(theta=theta, buffers=buffers)
        return self.means(self.evaluate(self.chunks))

    def restrict(
        self,
        center: np.ndarray,
        directions: np.ndarray,
        buffers: np.ndarray,
        strategy: str = "eager",
        precision: str = "full",
        batchnorm: str = "frozen",
        reference: "TorchProblem | None" = None,
        moving: np.ndarray | None = None,
    ) -> Eager | Staged:
        """Return the loss on center + span(directions), with everything on the device; see ``restriction``.

        Args:
            batchnorm: ``frozen``, the given buffers hold at every point; ``recompute``, each point has the statistics
                of its own, estimated on the samples of ``reference`` (by default of this problem); or
                ``interpolate``, buffers move with the coefficients along ``moving`` (k, buffer), variances clipped.
        """
        if batchnorm == "interpolate":
            return Interpolated(self, center, directions, buffers, moving)
        if batchnorm == "recompute" and has_batchnorm(self.network.module, self.chunks[0][0]):
            return Recomputed(self, center, directions, buffers, reference or self)
        return restrict(self, center, directions, buffers, strategy, precision)

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
        """Return how ``count`` points are to be evaluated; see ``calibration.choose``."""
        return choose_evaluation(self, (center, directions, buffers), points, count, strategy, precision)

    def gradient(self, theta: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Return the gradient of the mean loss at theta, shape (N,), float64."""
        total = torch.zeros(self.layout.size, dtype=torch.float64, device=self.network.theta.device)
        theta, buffers = self.network.vector(theta), self.network.vector(buffers)
        for chunk in self.chunks:
            total.add_(self.chunk_gradient(theta, buffers, chunk)[1], alpha=len(chunk[0]) / self.samples)
        return total.cpu().numpy()

    def linearize(self, theta: np.ndarray, buffers: np.ndarray, **choices: object) -> TorchHessian:
        """Return the Hessian at theta; ``choices`` are those of ``TorchHessian``."""
        return TorchHessian(self, theta, buffers, **choices)

    def chunk_gradient(self, theta: Tensor, buffers: Tensor, chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of one chunk's mean."""
        whole, theta = self.curvature(), theta.detach().requires_grad_(True)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value = self.loss(whole.outputs(whole.parts(theta), theta, buffers, chunk[0]), chunk[1])
            (gradient,) = torch.autograd.grad(value, theta)
        return value.detach(), gradient

    def curvature(self, operator: str = "hessian", parameters: tuple[str, ...] = ("*",)) -> Curvature:
        """Return the matrix, whose traced graphs serve every theta."""
        key = (operator, tuple(parameters))
        if key not in self._curvatures:
            chosen = self.layout.select(parameters)
            self._curvatures[key] = Curvature(self.network, self.loss, operator, chosen, self.batchnorm)
        return self._curvatures[key]

    def choose_strategy(
        self,
        theta: np.ndarray,
        buffers: np.ndarray,
        width: int,
        operator: str = "hessian",
        parameters: tuple[str, ...] = ("*",),
        memory_gb: float = 2.0,
        strategy: str = "auto",
    ) -> Choice:
        """Return how products with ``width`` vectors at once are to be computed; see ``strategies.choose``."""
        theta, buffers = self.network.vector(theta), self.network.vector(buffers)
        return choose(self, self.curvature(operator, parameters), theta, buffers, width, memory_gb, strategy)

    def strategy(self, curvature: Curvature, asked: str) -> str:
        """Return ``asked``, or ``rebuild`` where the network cannot be traced forward; says so once."""
        if asked != "split":
            return asked
        if curvature not in self._strategies:
            self._strategies[curvature] = "split"
            try:
                theta, buffers = self.network.theta.clone(), self.network.vector(self.network.buffers())
                curvature.traced(theta, buffers, self.pieces(1)[0], 1)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                first = str(error).strip().split("\n")[0]
                print(f"Hessian products: second backward passes; network or loss has no forward derivative ({first})")
                self._strategies[curvature] = "rebuild"
        return self._strategies[curvature]

    @torch.inference_mode()
    def evaluate(self, chunks: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the sums of some chunks at the network's present parameters and buffers."""
        self.network.module.eval()
        with statistics(self.batchnorm):
            return sum(self.sums(self.network.module(inputs), targets) for inputs, targets in chunks)

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

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the metrics of some samples, each times their number, float64 and on the device.

        In place of the loss's standard error there are mean and mean square of the losses of single samples.
        """
        found = [self.loss(outputs, targets).double()]
        if self.class_axis is not None:
            found.append((outputs.argmax(self.class_axis) == targets).double().mean())
        found += [metric(outputs, targets).double() for metric in self.own.values()]
        if self.each is not None:
            each = self.each(outputs, targets).double()
            found += [each.mean(), each.square().mean()]
        return torch.stack(found) * len(targets)

    def means(self, sums: Tensor) -> np.ndarray:
        """Return the metrics of all samples from ``sums`` added up over the chunks; one copy to the host."""
        means = (sums / self.samples).cpu().numpy()
        return means if self.each is None else with_standard_error(means, self.samples)

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
    tensors = []
    for array in (split.inputs, split.targets):
        tensor = torch.as_tensor(array).to(network.device.device)
        tensors.append(tensor.to(network.device.dtype) if tensor.is_floating_point() else tensor)
    if tensors[0].ndim == 4:
        # Convolutions run fastest on channels-last images; values and results stay the same.
        tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    if not tensors[1].is_floating_point():
        tensors[1] = tensors[1].long()  # what class losses ask for
    return tensors[0], tensors[1]


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


CHECKED = 32
"""Samples, spread evenly over all, on which a loss must be the mean over its samples."""


@torch.inference_mode()
def probe(
    network: FlatNetwork, loss: Loss, inputs: Tensor, targets: Tensor, metrics: dict[str, Loss] | None = None
) -> tuple[int | None, Loss | None]:
    """Try a few samples; return the axis of class scores in the outputs and the loss per sample, None without one.

    Raises:
        LossAtlasError: model and data do not fit; or the loss of some samples is not the mean of their own losses,
            for then neither is that of a dataset cut into chunks; or a metric is no such mean.
    """
    network.module.eval()
    few = torch.linspace(0, len(inputs) - 1, min(CHECKED, len(inputs))).long().to(inputs.device)
    inputs, targets = inputs[few], targets[few]
    try:
        outputs = network.module(inputs)
        loss(outputs, targets)
    except LossAtlasError:
        raise
    except Exception as error:
        raise LossAtlasError(
            f"model and data do not fit: inputs {tuple(inputs.shape)} {inputs.dtype}, targets "
            f"{tuple(targets.shape)} {targets.dtype} gave {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(outputs, Tensor):
        return None, None
    _check_model(network, inputs, outputs)
    _check_classes(loss, outputs, targets)
    _check_mean("loss", loss, outputs, targets)
    _check_metrics(metrics or {}, outputs, targets)
    class_axis = None if targets.is_floating_point() else _class_axis(outputs, targets)
    return class_axis, per_sample(loss, outputs, targets)


def _class_axis(outputs: Tensor, targets: Tensor) -> int | None:
    """Return the axis that outputs have and targets lack: the second, or the last in sequences."""
    if outputs.ndim != targets.ndim + 1:
        return None
    for axis in (1, outputs.ndim - 1):
        if outputs.shape[axis] > 1 and outputs.shape[:axis] + outputs.shape[axis + 1 :] == targets.shape:
            return axis
    return None


def _check_model(network: FlatNetwork, inputs: Tensor, outputs: Tensor) -> None:
    """Refuse outputs that are random, or depend on the other samples of a batch."""
    half, finite = len(inputs) // 2, outputs[torch.isfinite(outputs)]
    tolerance = 1e-4 * float(finite.abs().max()) if finite.numel() else 0.0

    def differs(again: Tensor) -> bool:
        return again.shape == outputs.shape and not torch.allclose(again, outputs, 1e-3, tolerance, equal_nan=True)

    if differs(network.module(inputs)):
        raise LossAtlasError("model: evaluated twice it gave two results; it draws random numbers (dropout left on?)")
    if half and differs(torch.cat([network.module(part) for part in (inputs[:half], inputs[half:])])):
        raise LossAtlasError(
            "model: the outputs of a sample depend on the others of its batch (BatchNorm without running statistics?)"
        )


def _check_classes(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse class losses of targets that are no classes."""
    if loss is functional.cross_entropy and targets.is_floating_point():
        shares = targets.shape == outputs.shape and bool(torch.allclose(targets.sum(1), torch.ones(())))
        if not shares:
            raise LossAtlasError(
                f"loss: cross-entropy needs integer classes, the targets are {targets.dtype} of shape "
                f"{tuple(targets.shape[1:])} per sample; use loss: {{name: mse}} or your own"
            )


def _check_metrics(metrics: dict[str, Loss], outputs: Tensor, targets: Tensor) -> None:
    """Refuse metrics that fail, draw random numbers or are no mean over samples."""
    for name, metric in metrics.items():
        try:
            _check_mean(f"metrics.{name}", metric, outputs, targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise LossAtlasError(f"metrics.{name}: on {shapes} it gave {said}") from error


def _check_mean(who: str, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse losses and metrics that draw random numbers or are no mean over samples."""
    whole, again = loss(outputs, targets), loss(outputs, targets)
    if not torch.isfinite(whole):
        return  # NaN and inf are kept, counted and drawn as such
    if not torch.equal(whole, again):
        raise LossAtlasError(
            f"{who}: evaluated twice it gave {float(whole):.6g} and {float(again):.6g}; it draws random numbers "
            "(dropout left on?)"
        )
    single = torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))])
    mean = float(single.double().mean())
    if not abs(mean - float(whole)) <= 1e-3 * abs(float(whole)) + 1e-6 * float(single.abs().max()):
        raise LossAtlasError(
            f"{who}: that of {len(outputs)} samples is {float(whole):.6g}, the mean of their own {mean:.6g}; it "
            "must be the mean over samples. Instead of a sum, a weighted mean, or a mean that leaves samples out, "
            "return one value per sample"
        )


def problems(
    network: FlatNetwork,
    loss: Loss,
    subsets: dict[str, Subset],
    batch_size: int,
    batchnorm: str = "frozen",
    metrics: dict[str, Loss] | None = None,
) -> dict[str, TorchProblem]:
    """Return one problem per evaluation subset; they share the network."""
    how = batch_size, batchnorm, metrics
    return {name: TorchProblem(network, loss, subset.samples, *how) for name, subset in subsets.items()}
