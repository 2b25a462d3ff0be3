"""Which pickles inside of PyTorch's archives are harmless: read here without running anything, and so by their loaders."""

from __future__ import annotations

import io
from pathlib import Path

from openmaas.engines.torch.archive import Archive
from openmaas.engines.torch.exported import SAMPLE_INPUTS
from openmaas.engines.torch.inert import NotInert, read_tensors
from openmaas.engines.torch.script import check_pickles


def inert_members(path: Path) -> frozenset[str]:
    """Names, with the root folder, of the members that are pickles of data and nothing else.

    path: of a TorchScript file or an exported program. In the first those are what PyTorch's own reader reads; in the second
    the sample inputs, which nothing reads. Raises Refused where the archive is damaged, or a pickle that would be read is more.
    """
    with Archive(path) as archive:
        names = check_pickles(archive) if "data.pkl" in archive.members else _sample_inputs(archive)
        return frozenset(archive.members[name].filename for name in names)


def _sample_inputs(archive: Archive) -> frozenset[str]:
    """Sample inputs are an archive in the archive; theirs must be as strict, and its pickle must be of tensors alone."""
    if archive.size(SAMPLE_INPUTS) < 1:
        return frozenset()
    with Archive(io.BytesIO(archive.read(SAMPLE_INPUTS))) as inner:
        try:
            read_tensors(inner.read("data.pkl"))
        except NotInert:
            return frozenset()
    return frozenset({SAMPLE_INPUTS})
