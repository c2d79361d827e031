"""Samples that are read when they are asked for: data sets of PyTorch and Hugging Face, loaders of these, streams.

No package of theirs is imported: what counts is which methods there are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from lossatlas.data.samples import TARGETS, Part, Split, as_array, as_split, is_pair
from lossatlas.errors import LossAtlasError

MEMORY_GB = 8.0
"""What the samples of a split may take once they are read."""

CHUNK = 64
"""Samples that are read and stacked at once."""

TRIED = 16
"""Samples that are read twice: those of an evaluation are the same whenever they are read."""


def read(given: Any, where: str, memory_gb: float = MEMORY_GB) -> "Split | Items":
    """Return samples in any form that people have them in.

    Args:
        given: a pair (inputs, targets) or a dict of arrays; a data set or loader, which is read when asked; or an
            iterable of batches, which is read at once.
        where: names the samples in messages.
        memory_gb: what they may take once they are read.

    Raises:
        LossAtlasError: it is none of these.
    """
    if isinstance(given, Split):
        return given
    if isinstance(given, Mapping) or is_pair(given) or isinstance(given, tuple):
        return as_split(given, where)
    if hasattr(given, "dataset") and hasattr(given, "collate_fn"):
        return _of_loader(given, where, memory_gb)
    if _is_stream(given) or (not isinstance(given, list) and hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        return Items(given, where, memory_gb)
    if not isinstance(given, Iterable):
        as_split(given, where)  # which says what it should be
    return _joined([as_split(batch, f"{where}: a batch") for batch in given], where)


def _joined(batches: list[Split], where: str) -> Split:
    if not batches:
        raise LossAtlasError(f"{where}: there is no batch")
    shapes = {(batch.inputs.shape[1:], batch.targets.shape[1:], batch.parts) for batch in batches}
    if len(shapes) > 1:
        told = ", ".join(sorted(str(shape[0]) for shape in shapes))
        raise LossAtlasError(f"{where}: inputs of batches differ in shape ({told}); pad them to one length")
    inputs, targets = (np.concatenate([getattr(one, name) for one in batches]) for name in ("inputs", "targets"))
    return Split(inputs, targets, batches[0].parts)


def _of_loader(loader: Any, where: str, memory_gb: float) -> "Items":
    """Return the samples of a ``DataLoader``, in the data set's order; its collate function makes batches of them."""
    name = getattr(loader.collate_fn, "__name__", "")
    if name == "default_convert":  # batch_size=None
        raise LossAtlasError(f"{where}: a DataLoader without batches; give its data set, or a batch_size")
    collate = None if name == "default_collate" else loader.collate_fn
    chosen = getattr(getattr(loader, "sampler", None), "indices", None)  # of a SubsetRandomSampler
    index = None if chosen is None else np.unique(as_array(chosen))
    return Items(loader.dataset, where, memory_gb, collate, index)


def _is_stream(given: Any) -> bool:
    """Return whether samples come in order only: PyTorch's have a ``__getitem__`` that fails."""
    return any(kind.__name__ == "IterableDataset" for kind in type(given).__mro__)


class Items:
    """Samples of a data set, read when they are asked for.

    Args:
        dataset: with ``__len__`` and ``__getitem__`` of a whole number; or a stream, of which the first samples are
            taken, in order. A sample is a pair (inputs, target) or a dict, see ``samples.as_split``.
        where: names it in messages.
        memory_gb: what samples may take once they are read.
        collate: makes a batch of a list of samples; it gets all that are asked for at once, so that it pads to the
            longest of these. None stacks them; text in dicts is then left out.
        index: which samples of the data set these are; all where it is None.

    Raises:
        LossAtlasError: there is none.
    """

    def __init__(
        self,
        dataset: Any,
        where: str,
        memory_gb: float = MEMORY_GB,
        collate: Callable[[list], Any] | None = None,
        index: np.ndarray | None = None,
    ):
        self._dataset, self._where, self._memory_gb = dataset, where, memory_gb
        self._collate, self._index = collate, index
        self.is_stream = _is_stream(dataset)
        if not self.is_stream and len(self) == 0:
            raise LossAtlasError(f"{where}: there is no sample")

    def __len__(self) -> int:
        if self.is_stream:
            raise LossAtlasError(f"{self._where}: a stream has no length; only evaluation reads from it, not training")
        return len(self._dataset) if self._index is None else len(self._index)

    @property
    def classes(self) -> np.ndarray | None:
        """The class of each sample, as far as the data set tells without reading them."""
        classes = None if self.is_stream else _classes(self._dataset)
        return classes if classes is None or self._index is None else classes[self._index]

    def whole(self) -> Split:
        """Return all samples, read."""
        return self.of(np.arange(len(self)))

    def spread(self, count: int) -> Split:
        """Return up to ``count`` samples, spread evenly over all; the first ones of a stream."""
        if self.is_stream:
            return self.first(count)
        return self.of(np.unique(np.linspace(0, len(self) - 1, count).astype(int)))

    def first(self, count: int) -> Split:
        """Return up to ``count`` samples of a stream, read in order.

        Raises:
            LossAtlasError: as for ``of``, or there is none.
        """
        return self._gather(_chunks(iter(self._dataset), CHUNK if self._collate is None else count, count), count)

    def of(self, index: np.ndarray) -> Split:
        """Return some samples, read.

        Raises:
            LossAtlasError: they are no numbers, have different shapes, take too much memory, or are not the same when
                they are read again.
        """
        places = np.asarray(index) if self._index is None else self._index[index]
        tried = places[np.unique(np.linspace(0, len(places) - 1, TRIED).astype(int))]
        few = self._made(self._read(tried))
        if few.digest != self._made(self._read(tried)).digest:
            raise LossAtlasError(
                f"{self._where}: samples differ each time they are read (augmentation, masking?); give the data set "
                "without, as for an evaluation"
            )
        self._check_memory(few, len(places))
        step = CHUNK if self._collate is None else len(places)
        chunks = (self._read(places[start : start + step]) for start in range(0, len(places), step))
        return self._gather(chunks, len(places))

    def _read(self, places: np.ndarray) -> list:
        """Return samples of the data set as it gives them."""
        wanted = places.tolist()
        try:
            many = getattr(self._dataset, "__getitems__", None)
            return list(many(wanted)) if many is not None else [self._dataset[place] for place in wanted]
        except LossAtlasError:
            raise
        except Exception as error:  # whatever a data set of the user's does
            raise LossAtlasError(f"{self._where}: reading samples failed with {type(error).__name__}: {error}") from error

    def _gather(self, chunks: Iterable[list], most: int) -> Split:
        """Return chunks of samples, of ``most`` together, as one."""
        inputs: np.ndarray | None = None
        targets: np.ndarray | None = None
        parts: tuple[Part, ...] = ()
        count = 0
        for chunk in chunks:
            made = self._made(chunk)
            if inputs is None or targets is None:
                self._check_memory(made, most)
                inputs, targets = (np.empty((most, *a.shape[1:]), a.dtype) for a in (made.inputs, made.targets))
                parts = made.parts
            if (made.inputs.shape[1:], made.targets.shape[1:], made.parts) != (inputs.shape[1:], targets.shape[1:], parts):
                raise LossAtlasError(_ragged(self._where, made.inputs.shape[1:], inputs.shape[1:]))
            inputs, targets = _with_room(inputs, made.inputs), _with_room(targets, made.targets)
            rows = slice(count, count + len(made))
            inputs[rows], targets[rows], count = made.inputs, made.targets, rows.stop
        if inputs is None or targets is None:
            raise LossAtlasError(f"{self._where}: there is no sample")
        return Split(inputs[:count], targets[:count], parts)

    def _made(self, samples: list) -> Split:
        """Return samples as one batch."""
        if self._collate is None:
            return as_split(_stacked(samples, self._where), self._where)
        try:
            batch = self._collate(samples)
        except Exception as error:  # whatever a function of the user's does
            raise LossAtlasError(f"{self._where}: collate_fn failed with {type(error).__name__}: {error}") from error
        return as_split(batch, self._where)

    def _check_memory(self, few: Split, count: int) -> None:
        need = 1e-9 * few.nbytes / len(few) * count
        if need > self._memory_gb:
            raise LossAtlasError(
                f"{self._where}: {count} samples take {need:.1f} GB once read, more than memory_gb, {self._memory_gb:g}; "
                "take fewer or raise it"
            )


def _with_room(array: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return an array of a type that also holds what follows: whole numbers may be followed by others."""
    return array.astype(np.promote_types(array.dtype, more.dtype), copy=False)


def _chunks(items: Iterator, step: int, most: int) -> Iterator[list]:
    items = islice(items, most)
    while chunk := list(islice(items, step)):
        yield chunk


def _stacked(samples: list, where: str) -> Any:
    """Return samples as a batch: pairs as a pair, dicts as a dict, several inputs as several, numbers as an array."""
    first = samples[0]
    if isinstance(first, Mapping):
        keys = [key for key in first if not isinstance(first[key], str | bytes | None)]
        if any(key not in sample for sample in samples for key in keys):
            raise LossAtlasError(f"{where}: samples have different keys")
        return {key: _stacked([sample[key] for sample in samples], where) for key in keys}
    if isinstance(first, tuple) or (isinstance(first, list) and first and hasattr(first[0], "shape")):
        if any(len(sample) != len(first) for sample in samples):
            raise LossAtlasError(f"{where}: samples have different numbers of parts")
        return tuple(_stacked(list(column), where) for column in zip(*samples, strict=True))
    try:
        arrays = [as_array(sample) for sample in samples]
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: a sample holds what cannot be used: {error}") from error
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise LossAtlasError(_ragged(where, *sorted(shapes)[:2]))
    return np.stack(arrays)


def _ragged(where: str, one: tuple, other: tuple) -> str:
    return (
        f"{where}: samples have different shapes ({one}, {other}); make them one, or give a DataLoader whose "
        "collate_fn pads them"
    )


def _classes(dataset: Any) -> np.ndarray | None:
    """Return the classes of samples, of which many data sets keep a list: whole numbers, one each."""
    inner, chosen = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and chosen is not None:  # torch.utils.data.Subset
        classes = _classes(inner)
        return None if classes is None else classes[np.asarray(chosen)]
    try:
        classes = as_array(_listed(dataset)[:])
    except (TypeError, ValueError):
        return None
    return classes if classes.ndim == 1 and classes.dtype.kind in "iu" and len(classes) == len(dataset) else None


def _listed(dataset: Any) -> Any:
    """Return the targets that a data set keeps, None where it keeps none."""
    columns, tensors = getattr(dataset, "column_names", None), getattr(dataset, "tensors", None)
    if isinstance(columns, list):  # Hugging Face; targets of sequences are no classes
        name = next((name for name in TARGETS if name in columns), None)
        return None if name is None or not len(dataset) or np.ndim(dataset[0][name]) else dataset[name]
    return getattr(dataset, "targets", tensors[-1] if tensors else None)  # of torchvision, or a TensorDataset
