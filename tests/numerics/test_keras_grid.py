"""Every kind of Keras network by every strategy: right, or refused with one line (oracle 2).

The expected products come from first derivatives alone, by differences of eighth order.
"""

import keras
import numpy as np
import pytest
from lossatlas.backends import tensorflow as backend
from lossatlas.backends.tensorflow.products import PRODUCT_STRATEGIES
from lossatlas.data import Split
from lossatlas.errors import LossAtlasError
from lossatlas.problem.checks import OPERATORS

from tests.helpers import keras_grid

BLOCKS = (1, 4, 10)


@pytest.mark.parametrize("name", keras_grid.NETWORKS)
def test_oracle_2_networks_of_every_kind(name):
    """Operators take turns, so that each is seen with every strategy and on networks of every kind."""
    device = backend.set_up("cpu", "float64", 1)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    data, build = keras_grid.NETWORKS[name]
    samples, operator = keras_grid.DATA[data], OPERATORS[list(keras_grid.NETWORKS).index(name) % len(OPERATORS)]
    net = backend.FlatNetwork(build(), device)
    split = Split(samples, keras_grid.TARGETS)
    problem = backend.KerasProblem(net, backend.as_loss("cross-entropy"), split, len(samples))
    rng = np.random.default_rng(0)
    theta, buffers = net.parameters() + 0.1 * rng.standard_normal(net.layout.size), net.buffers()
    taken = samples.transpose(0, 2, 3, 1) if data == "images" else samples
    oracle = keras_grid.ByHand(net.model, taken, keras_grid.TARGETS)
    basis = rng.standard_normal((2, len(theta))) / np.sqrt(len(theta))
    rows = np.stack([oracle.product(operator, theta, v) for v in basis])
    for strategy in PRODUCT_STRATEGIES:
        if words := keras_grid.REFUSED.get((name, strategy)):
            with pytest.raises(LossAtlasError, match=words) as error:
                problem.linearize(theta, buffers, operator=operator, strategy=strategy)
            assert "\n" not in str(error.value)
            continue
        hessian = problem.linearize(theta, buffers, operator=operator, strategy=strategy)
        for width in BLOCKS:
            mixed = rng.standard_normal((width, 2))
            expected, found = mixed @ rows, hessian.matmat(mixed @ basis)
            assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max(), (strategy, width)
