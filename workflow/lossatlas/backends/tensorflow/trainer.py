"""Mini-batch training by optimisers and schedules of Keras."""

import io
import math

import numpy as np
import tensorflow as tf

from lossatlas import rng
from lossatlas.backends.tensorflow.checks import probe, to_tensors
from lossatlas.backends.tensorflow.graphs import Graphs
from lossatlas.backends.tensorflow.network import mode
from lossatlas.backends.tensorflow.optimizers import make_optimizer, make_rate
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import first_line
from lossatlas.problem.training import TrainerBase


class KerasTrainer(TrainerBase):
    """Trains by any optimiser of ``keras.optimizers``, with batches in the order that PyTorch has.

    Penalties that layers add (regularisers) are minimised along, and not recorded.
    """

    def _prepare(self, split: Split) -> None:
        network, spec = self.network, self.spec
        self.inputs, self.targets = to_tensors(split, network)
        probe(network, self.loss, self.inputs, self.targets)
        self.rate = make_rate(spec)
        self.optimizer, self._decay = make_optimizer(spec)
        self.optimizer.build(network.model.trainable_variables)
        self._random = [v for v in network.model.variables if v.path.endswith("seed_generator_state")]
        self._step = Graphs(self._update)

    def step(self, iteration: int) -> tuple[float, float]:
        """Take the step from ``iteration`` to ``iteration + 1``; see ``TrainerBase``."""
        inputs, targets = (tf.gather(part, self._chosen(iteration)) for part in (self.inputs, self.targets))
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
        self._check_finite(value, iteration)
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
            value = self.loss(model(self.network.given(inputs), **mode(model, True)), targets)
            whole = tf.add_n([value, *model.losses]) if model.losses else value
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(whole, [v.value for v in variables], unconnected_gradients=zero)
        if self._decay:
            gradients = [tf.convert_to_tensor(g) + self._decay * v for g, v in zip(gradients, variables, strict=True)]
        self.optimizer.apply(gradients, variables)
        return value
