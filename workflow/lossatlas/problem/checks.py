"""What model, loss and data must be, whichever framework they are of."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lossatlas.config import imports
from lossatlas.data import as_array
from lossatlas.errors import LossAtlasError
from lossatlas.io.layout import ParameterLayout

BATCHNORM = ("frozen", "batch")
"""What BatchNorm normalises by: buffers that belong to theta, or mean and variance over the samples of each chunk."""

OPERATORS = ("hessian", "ggn", "residual")
"""Matrices of second derivatives: the Hessian, the generalised Gauss-Newton matrix, and what it leaves of the first."""

LOSSES = ("cross-entropy", "mse")
"""Losses that are there by name, with every framework."""

CHECKED = 32
"""Samples, spread evenly over all, on which everything is tried."""


def check_one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a ``value`` that is not known.

    Raises:
        LossAtlasError: the message names ``key`` and what would be right.
    """
    if value not in known:
        raise LossAtlasError(f"{key}: {value!r} is not one of {', '.join(known)}")


def first_line(error: Exception) -> str:
    """Return kind and first line of an error that says something."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))  # colours
    text = re.split(r"\n    (?=\w*(?:Error|Exception): )", text)[-1]  # after what AutoGraph says of where
    lines = [re.sub(r"^\w+: (?=Exception encountered)", "", line.strip()) for line in text.splitlines()]
    said = (line for line in lines if line and not line.startswith("Exception encountered"))
    return f"{type(error).__name__}: {next(said, 'no message')}"


def network_builder(spec: dict, built_in: Callable[[str], Callable]) -> tuple[str, Callable]:
    """Return name and builder of the network of ``spec`` (keys ``name`` or ``import``)."""
    if "import" in spec:
        return spec["import"], imports.load(spec["import"], spec["python_path"], "model.import")
    return spec["name"], built_in(spec["name"])


def built(builder: Callable, name: str, kwargs: dict, kind: type, kind_name: str) -> Any:
    """Return the network that a builder makes.

    Raises:
        LossAtlasError: the builder fails or returns something else than a ``kind``.
    """
    try:
        network = builder(**kwargs)
    except Exception as error:
        raise LossAtlasError(
            f"model: building {name!r} with kwargs {kwargs} failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, kind):
        raise LossAtlasError(f"model.import: {name!r} returned {type(network).__name__}, not a {kind_name}")
    return network


def check_loss(loss: Any, known: tuple[str, ...]) -> None:
    """Refuse what a notebook gives as a loss and is none.

    Raises:
        LossAtlasError: it is a class, or neither a function nor one of the ``known`` names.
    """
    if isinstance(loss, type):
        raise LossAtlasError(f"loss: {loss.__name__} is a class; give an instance, {loss.__name__}()")
    if not callable(loss) and loss not in known:
        raise LossAtlasError(f"loss: {loss!r} is neither a function nor one of {', '.join(known)}")


@contextmanager
def fitting(*arrays: tuple[tuple[int, ...], str]) -> Iterator[None]:
    """Say in one line that model and data do not fit, where the model fails inside.

    Args:
        arrays: shape and dtype of inputs and of targets.
    """
    try:
        yield
    except LossAtlasError:
        raise
    except Exception as error:  # whatever a function of the user's does
        (inputs, targets) = (f"{shape} {dtype}" for shape, dtype in arrays)
        raise LossAtlasError(
            f"model and data do not fit: inputs {inputs}, targets {targets} gave {first_line(error)}"
        ) from error


def check_repeats(who: str, value: float, again: float) -> None:
    """Refuse a loss or a metric that gave two values for the same; NaN and inf are kept."""
    if np.isfinite(value) and value != again:
        raise LossAtlasError(
            f"{who}: evaluated twice it gave {value:.6g} and {again:.6g}; it draws random numbers (dropout left on?)"
        )


def check_same_outputs(outputs: list[np.ndarray], again: list[np.ndarray]) -> None:
    """Refuse a model that gave two results for the same samples."""
    if not all(alike(*pair) for pair in zip(outputs, again, strict=True)):
        raise LossAtlasError("model: evaluated twice it gave two results; it draws random numbers (dropout left on?)")


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether outputs are the same to far more than rounding."""
    finite = one[np.isfinite(one)]
    tolerance = 1e-4 * float(np.abs(finite).max()) if finite.size else 0.0
    return one.shape == other.shape and np.allclose(one, other, 1e-3, tolerance, equal_nan=True)


def check_mean(who: str, whole: float, mean: float, samples: int, tolerance: float, hint: str = "") -> None:
    """Refuse what is not the mean over samples; NaN and inf of the whole are kept, counted and drawn as such.

    Args:
        whole: the loss or metric of ``samples`` samples together.
        mean: the mean of the samples' or their groups' own.
        hint: what else would be right.
    """
    if np.isfinite(whole) and not abs(mean - whole) <= tolerance:
        raise LossAtlasError(
            f"{who}: that of {samples} samples is {whole:.6g}, the mean of their own {mean:.6g}; it must be the mean "
            f"over samples. Instead of a sum, a weighted mean, or a mean that leaves samples out, return one value per "
            f"sample{hint}"
        )


def check_averageable(who: str, shape: tuple[int, ...] | None, given: Any, targets: tuple[int, ...] = ()) -> None:
    """Refuse what is neither a scalar nor one value per sample (or per position, of the targets' shape).

    Args:
        shape: that of the values; None where they are no tensor.
        given: what was returned.
    """
    if shape is None or (len(shape) > 1 and shape != targets):
        found = type(given).__name__ if shape is None else shape
        raise LossAtlasError(f"{who} must return a scalar or one value per sample, got {found}")


def as_vector(layout: ParameterLayout, given: Any, where: str) -> np.ndarray:
    """Return a flat direction (N,), float64, from a vector or from arrays by parameter name; others are zero.

    Raises:
        LossAtlasError: a name is unknown, a size or shape is another one, or a number is not finite.
    """
    if isinstance(given, dict):
        return _by_name(layout, given, where)
    try:
        vector = as_array(given).astype(np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: neither a vector, a dict of tensors nor a module ({error})") from error
    if not np.isfinite(vector).all():
        raise LossAtlasError(f"{where}: it holds NaN or inf")
    if vector.size != layout.size:
        raise LossAtlasError(f"{where}: {vector.size} numbers, the model has {layout.size} parameters")
    return vector


def _by_name(layout: ParameterLayout, given: dict, where: str) -> np.ndarray:
    vector, slots = np.zeros(layout.size), {slot.name: slot for slot in layout}
    for name, array in given.items():
        if name not in slots:
            raise LossAtlasError(f"{where}: no trained parameter {name!r}; parameters: {', '.join(slots)}")
        if np.shape(array) != slots[name].shape:
            raise LossAtlasError(f"{where}: {name!r} has shape {np.shape(array)}, not {slots[name].shape}")
        vector[slots[name].slice] = as_array(array).reshape(-1)
    return vector
