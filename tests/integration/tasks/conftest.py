"""A job without a server: versions are folders that were examined in the child, as control does it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import NotFound
from openmaas.core.manifest import FileEntry, Manifest, Parity
from openmaas.core.settings import Settings
from openmaas.formats import Examined, examine
from openmaas.formats.files import list_files, sha256_of


class Registry:
    """Versions by reference, and what a job pushes. `push` examines as a server would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions: dict[str, tuple[Manifest, Path]] = {}
        self.parents: dict[str, str | None] = {}
        self.recipes: dict[str, str] = {}
        self.cards: dict[str, str] = {}
        self.datasets: dict[str, tuple[DatasetManifest, Path]] = {}
        self.measurements: dict[str, dict[str, Any]] = {}
        self.serving: dict[str, list[dict[str, Any]]] = {}
        """By reference, as control keeps them of jobs that succeeded."""

    def add(self, model: str, files: Path, **more: Any) -> str:
        """Register a folder; the reference of the new version."""
        number = 1 + sum(reference.partition(":")[0] == model for reference in self.versions)
        output = self.folder / f"{model}-{number}-added"
        output.mkdir()
        parent = more.pop("parent", None)
        found = examine(files, output=output, timeout=120.0, memory=4 << 30, **more)
        for path in found.added:
            target = files / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (output / path).replace(target)
        reference = f"{model}:{number}"
        self.versions[reference] = (_manifest(found, files), files)
        self.parents[reference] = parent
        return reference

    def show(self, reference: str) -> Any:
        if reference not in self.versions:
            raise NotFound(f"There is no {reference}.")
        model, _, number = reference.partition(":")
        return SimpleNamespace(
            model=model,
            number=int(number),
            digest=self.versions[reference][0].digest,
            parent=self.parents[reference],
            recipe=self.recipes.get(reference),
            manifest=msgspec.to_builtins(self.versions[reference][0]),
            measurement=self.measurements.get(reference),
            serving=self.serving.get(reference, []),
        )

    def versions_of(self, model: str) -> list[Any]:
        return [self.show(reference) for reference in self.versions if reference.partition(":")[0] == model]

    def push(
        self, path: Path, *, name: str, sample: Path | None, parent: str, recipe: str, parity: Any = None, card: str = ""
    ) -> Any:
        kept = self.folder / f"{name}-{len(self.versions) + 1}"
        path.rename(kept)
        given = sample.name if sample is not None else None
        compared = None if parity is None else msgspec.convert(parity, Parity)
        reference = self.add(name, kept, sample=given, parity=compared, parent=parent)
        self.recipes[reference], self.cards[reference] = recipe, card
        number, digest = int(reference.partition(":")[2]), self.versions[reference][0].digest
        return SimpleNamespace(version=SimpleNamespace(model=name, number=number, digest=digest), created=True)


def _manifest(found: Examined, folder: Path) -> Manifest:
    files = [
        FileEntry(path=file, size=(folder / file).stat().st_size, sha256=sha256_of(folder / file))
        for file in list_files(folder)
    ]
    fields = {name: getattr(found, name) for name in Manifest.__struct_fields__ if hasattr(found, name)}
    return Manifest(files=tuple(files), **fields)


class FakeJob:
    """tasks.base.Job on a Registry."""

    id = "job-1"

    def __init__(self, registry: Registry, scratch: Path, kind: str, arguments: dict[str, Any]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.scratch = scratch
        self.settings = Settings()
        self.registry = registry
        self.client: Any = SimpleNamespace(show=registry.show, push=registry.push, versions=registry.versions_of)
        self.lines: list[str] = []
        self.stages: list[str] = []

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        self.stages.append(stage)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def files(self, reference: str) -> tuple[Manifest, Path]:
        self.client.show(reference)
        return self.registry.versions[reference]

    def dataset(self, reference: str) -> tuple[DatasetManifest, Path]:
        return self.registry.datasets[reference]

    def environment(self, name: str) -> Path:
        raise AssertionError(f"no converter here needs the environment {name}")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield


@pytest.fixture
def registry(tmp_path: Path, warm: None) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def job(registry: Registry, tmp_path: Path) -> Callable[..., FakeJob]:
    """`job(kind, **arguments)`."""

    def make(kind: str, **arguments: Any) -> FakeJob:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        return FakeJob(registry, scratch, kind, arguments)

    return make
