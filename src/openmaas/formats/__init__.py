"""What a model file is: found out from its content, examined in a child process, converted with proof.

examine_dataset(folder, …)   control: what the rows of a dataset are
examine(folder, …)           control: which format, signature, batching, parity, and the files that a conversion added
export(model, sample, folder) client: a live object as files that can be pushed
"""

from __future__ import annotations

from openmaas.formats.base import Examined, ExaminedDataset, Exported, Format, Task
from openmaas.formats.export import export
from openmaas.formats.sandbox import examine, examine_dataset

__all__ = ["Examined", "ExaminedDataset", "Exported", "Format", "Task", "examine", "examine_dataset", "export"]
