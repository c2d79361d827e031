"""TensorFlow: Keras 3 models as flat networks, problems and training."""

# The first import: what TensorFlow and Keras read from the environment must be there before they start.
from lossatlas.backends.tensorflow.environment import check_keras  # isort: skip

from lossatlas.backends.tensorflow.build import (
    as_loss,
    as_metrics,
    build_loss,
    build_module,
    is_cross_entropy,
    mean_over_samples,
)
from lossatlas.backends.tensorflow.checkpoints import read_checkpoint
from lossatlas.backends.tensorflow.device import Device, device_of, own_modes, set_up
from lossatlas.backends.tensorflow.inputs import as_direction, read_weights
from lossatlas.backends.tensorflow.network import FlatNetwork
from lossatlas.backends.tensorflow.problem import KerasProblem, least_product_bytes
from lossatlas.backends.tensorflow.products import PRODUCT_STRATEGIES
from lossatlas.backends.tensorflow.recorder import KerasRecorder
from lossatlas.backends.tensorflow.subspace_loss import POINT_STRATEGIES, PRECISIONS
from lossatlas.backends.tensorflow.trainer import KerasTrainer

Problem, Trainer = KerasProblem, KerasTrainer
