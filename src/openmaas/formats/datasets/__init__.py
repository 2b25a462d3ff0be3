"""Datasets: npz, Parquet, CSV, JSON lines, running text and folders of images as columns of arrays.

examine_dataset(folder, …)      control: what was pushed, found out in a child process
read_dataset(manifest, folder)  jobs: its rows as numpy arrays
"""

from __future__ import annotations

from openmaas.formats.datasets.base import ExaminedDataset
from openmaas.formats.datasets.reading import Dataset, read_dataset

__all__ = ["Dataset", "ExaminedDataset", "read_dataset"]
