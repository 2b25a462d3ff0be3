"""How text generators go on from the same beginnings, each by the engine that serves it, always by the likeliest token."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from openmaas.core.errors import OpenMaaSError
from openmaas.core.generation import Generator
from openmaas.core.hardware import free_memory
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.passages import Ids
from openmaas.tasks.side_by_side import Subject

MOST: Final = 16  # beginnings
GIVEN: Final = 32  # tokens of a beginning
WRITTEN: Final = 24  # tokens that are written after each
_PATIENCE: Final = 300.0  # seconds, loading included


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first tokens of a passage. row: its number. given: they as text; truth: how the passage goes on."""

    row: int
    ids: tuple[int, ...]
    given: str
    truth: str


def beginnings_of(passages: Sequence[Ids], generator: Generator, folder: Path) -> list[Beginning]:
    """Of at most 16 passages, spread evenly over those that are long enough; none where none is."""
    from tokenizers import Tokenizer

    long = [row for row, ids in enumerate(passages) if len(ids) >= GIVEN + WRITTEN]
    places = np.unique(np.linspace(0, len(long) - 1, min(MOST, len(long))).round().astype(int)).tolist() if long else []
    tokenizer = Tokenizer.from_file(str(folder / generator.tokenizer))
    found = []
    for row in (long[place] for place in places):
        given, truth = passages[row][:GIVEN], passages[row][GIVEN : GIVEN + WRITTEN]
        found.append(
            Beginning(
                row=row,
                ids=tuple(given),
                given=tokenizer.decode(given, skip_special_tokens=False),
                truth=tokenizer.decode(truth, skip_special_tokens=False),
            )
        )
    return found


def written_by(job: Job, subject: Subject, beginnings: Sequence[Beginning]) -> tuple[str, ...]:
    """What the version writes after each of these. Raises OpenMaaSError where it cannot."""
    from tokenizers import Tokenizer

    if not beginnings:
        return ()
    assert subject.manifest.generator is not None
    job.progress(f"writing with {subject.name}")
    with tempfile.TemporaryDirectory(dir=job.scratch) as scratch:
        candidate = Candidate(subject.choice, subject.manifest, subject.folder, Path(scratch), memory=free_memory() * 4 // 5)
        candidate.patience = _PATIENCE
        try:
            found = candidate.go_on([list(one.ids) for one in beginnings], WRITTEN)
        except Failed as failed:
            raise OpenMaaSError(failed.cause, code=failed.state) from None
        finally:
            candidate.close()
    tokenizer = Tokenizer.from_file(str(subject.folder / subject.manifest.generator.tokenizer))
    return tuple(tokenizer.decode(ids, skip_special_tokens=False) for ids in found)
