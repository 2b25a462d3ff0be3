"""Datasets: npz, Parquet, CSV, JSON lines, running text and folders of images as columns of arrays.

examine_files(folder, …)        the child that examines a push (formats/sandbox.py): what the rows are
read_dataset(manifest, folder)  jobs: its rows as numpy arrays
"""

from __future__ import annotations

from openmaas.formats.datasets.reading import Dataset, examine_files, read_dataset

__all__ = ["Dataset", "examine_files", "read_dataset"]
