"""Datasets as plain NumPy arrays, and the fixed subset on which surfaces are evaluated."""

from lossatlas.data.dataset import Dataset, Part, Split, load_dataset, sample_split, training_samples
from lossatlas.data.subset import Subset, evaluation_subsets
