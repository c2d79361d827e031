"""What the variables of Keras layers are called, what they are, and along which axes their filters lie."""

from collections.abc import Iterator

import keras

_LAYERS = keras.layers
_TRANSPOSED = (_LAYERS.Conv1DTranspose, _LAYERS.Conv2DTranspose, _LAYERS.Conv3DTranspose)
_DEPTHWISE = (
    _LAYERS.DepthwiseConv1D,
    _LAYERS.DepthwiseConv2D,
    _LAYERS.SeparableConv1D,
    _LAYERS.SeparableConv2D,
)


def owners(model: keras.Model) -> dict[int, tuple[keras.Layer, keras.Variable]]:
    """Return the layer that each variable belongs to, by the variable's identity.

    Where it is shared that is the layer which it is called after, such as the one inside ``SpectralNormalization``.
    """
    found: dict[int, tuple] = {}
    for layer in model._flatten_layers(include_self=True, recursive=True):
        for variable in _own(layer):
            if id(variable) not in found or variable.path.split("/")[-2:-1] == [layer.name]:
                found[id(variable)] = layer, variable
    return found


def _own(layer: keras.Layer) -> Iterator[keras.Variable]:
    yield from layer._trainable_variables
    yield from layer._non_trainable_variables


def short_name(variable: keras.Variable, model: keras.Model) -> str:
    """Return a variable's path without the name of the model, such as ``conv1.kernel``."""
    return variable.path.removeprefix(f"{model.name}/").replace("/", ".")


def kind(layer: keras.Layer, variable: keras.Variable, dims: int) -> str:
    """Return which of ``layout.KINDS`` a variable is."""
    leaf = variable.path.rpartition("/")[2]
    if "norm" in type(layer).__name__.lower() and (dims <= 1 or leaf in ("gamma", "beta", "scale")):
        return "norm-shift" if leaf in ("beta", "bias") else "norm-scale"
    return "bias" if leaf.endswith("bias") else "weight"


def filter_axis(
    layer: keras.Layer, variable: keras.Variable, kind: str, shape: tuple[int, ...]
) -> int | tuple[int, ...] | None:
    """Return the axis, or the axes together, along which a variable's filters are counted.

    Kernels of convolutions are (height, width, in, out), of dense layers (in, out). Transposed convolutions keep out
    before in; depthwise ones have a filter for each pair of input channel and multiplier; ``EinsumDense`` says in its
    equation which of its axes are those of outputs; rows of embeddings are filters.
    """
    if kind != "weight" or len(shape) < 2:
        return None
    last = len(shape) - 1
    if isinstance(layer, _TRANSPOSED):
        return last - 1
    if isinstance(layer, _DEPTHWISE) and variable.path.rpartition("/")[2] != "pointwise_kernel":
        return last - 1, last
    if isinstance(layer, _LAYERS.EinsumDense):
        operands, _, result = layer.equation.replace(" ", "").partition("->")
        axes = tuple(axis for axis, name in enumerate(operands.split(",")[1]) if name in result)
        return axes if len(axes) > 1 else axes[0] if axes else None
    if isinstance(layer, _LAYERS.Embedding):
        return 0
    return last
