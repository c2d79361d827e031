"""Mini-batch training whose every step is a function of (state, iteration): resumable bit for bit."""

import io
import math

import numpy as np
import tensorflow as tf

from lossatlas import rng
from lossatlas.backends.tensorflow.build import Loss
from lossatlas.backends.tensorflow.checks import probe, to_tensors
from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.network import FlatNetwork, mode
from lossatlas.backends.tensorflow.optimizers import make_optimizer, make_rate
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import first_line


class KerasTrainer:
    """Trains a ``FlatNetwork`` by any optimiser of ``keras.optimizers``.

    The order of the batches is the same permutation, keyed by (seed, epoch), as with PyTorch. Keras's random layers are
    keyed by (seed, iteration). Penalties that layers add (regularisers) are minimised along, and not recorded.

    Args:
        spec: the config's ``train``.

    Raises:
        LossAtlasError: optimiser or schedule is unknown or refuses its arguments, or model and data do not fit.
    """

    def __init__(self, network: FlatNetwork, loss: Loss, split: Split, spec: dict, seed: int):
        self.network, self.loss, self.spec, self.seed = network, loss, spec, seed
        self.inputs, self.targets = to_tensors(split, network)
        self.batch_size = min(spec["batch_size"], len(split))
        self.steps, self.steps_per_epoch = training_steps(len(split), spec)
        probe(network, loss, self.inputs, self.targets)
        self.rate = make_rate(spec)
        self.optimizer, self._decay = make_optimizer(spec)
        self.optimizer.build(network.model.trainable_variables)
        self._random = [v for v in network.model.variables if v.path.endswith("seed_generator_state")]
        self._order: tuple[int, np.ndarray] | None = None
        self._step = Graphs(self._update)

    def step(self, iteration: int) -> tuple[float, float]:
        """Take the step from ``iteration`` to ``iteration + 1``; return (mini-batch loss, learning rate).

        Raises:
            LossAtlasError: the loss is NaN or infinite.
        """
        inputs, targets = self._batch(iteration)
        for number, state in enumerate(self._random):
            state.assign([rng.torch_seed(self.seed, "dropout", iteration, number) % 2**32, 0])
        rate = self.rate(iteration)
        self.optimizer.learning_rate.assign(rate)
        before = self.network.parameters()
        try:
            value = float(self._step(inputs, targets))
        except (ValueError, tf.errors.OpError) as error:
            raise LossAtlasError(
                f"train: iteration {iteration} with a batch of {len(inputs)} samples failed with {first_line(error)}"
            ) from error
        if not math.isfinite(value):
            self.network.load(theta=before)
            raise LossAtlasError(
                f"train: the mini-batch loss is {value} at iteration {iteration}; "
                "lower train.learning_rate or check loss and data"
            )
        return value, rate

    def state(self) -> bytes:
        """Return all that a later process needs to go on from here."""
        stream = io.BytesIO()
        np.savez(stream, *[variable.numpy() for variable in self._variables()])
        return stream.getvalue()

    def load_state(self, state: bytes) -> None:
        """Go on from a ``state``."""
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            for number, variable in enumerate(self._variables()):
                variable.assign(arrays[f"arr_{number}"])

    def _variables(self) -> list:
        return [*self.network.model.variables, *self.optimizer.variables]

    def _update(self, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        model = self.network.model
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            value = self.loss(model(inputs, **mode(model, True)), targets)
            whole = tf.add_n([value, *model.losses]) if model.losses else value
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(whole, [v.value for v in variables], unconnected_gradients=zero)
        if self._decay:
            gradients = [tf.convert_to_tensor(g) + self._decay * v for g, v in zip(gradients, variables, strict=True)]
        self.optimizer.apply(gradients, variables)
        return value

    def _batch(self, iteration: int) -> tuple[tf.Tensor, tf.Tensor]:
        epoch, place = divmod(iteration, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = rng.generator(self.seed, "batches", epoch).permutation(len(self.inputs))
            self._order = (epoch, order.astype(np.int64))
        chosen = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return tf.gather(self.inputs, chosen), tf.gather(self.targets, chosen)


def training_steps(samples: int, spec: dict) -> tuple[int, int]:
    """Return how many steps the config's ``train`` takes on so many samples: (altogether, per epoch)."""
    per_epoch = math.ceil(samples / min(spec["batch_size"], samples))
    return max(1, round(spec["epochs"] * per_epoch)), per_epoch
