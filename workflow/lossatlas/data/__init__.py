"""Datasets as plain NumPy arrays, and the fixed subset on which surfaces are evaluated."""

from lossatlas.data.dataset import Dataset, load_dataset, sample_split, training_samples
from lossatlas.data.samples import Part, Split, as_array
from lossatlas.data.streams import Items, read
from lossatlas.data.subset import Subset, evaluation_subsets, sample
