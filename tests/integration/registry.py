"""The registry's services over a real database and real files, with a fake in place of the examination."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmaas.control.aliases import AliasService
from openmaas.control.approvals import ApprovalService
from openmaas.control.datasets import DatasetService
from openmaas.control.garbage import GarbageService
from openmaas.control.keys import KeyService
from openmaas.control.models import ModelService
from openmaas.control.parts import Parts
from openmaas.control.pushes import PushService
from openmaas.control.uploads import UploadService
from openmaas.control.versions import VersionService
from openmaas.core.manifest import Parity
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import DatasetPushResult, PushResult, UploadFile, UploadInfo, UploadRequest
from openmaas.core.settings import Settings
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats import Examined
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload_request(name: str, files: dict[str, bytes], **more: Any) -> UploadRequest:
    listed = [UploadFile(path=path, size=len(data), sha256=digest(data)) for path, data in files.items()]
    return UploadRequest(name=name, files=listed, **more)


class FakeExamine:
    """Takes the first file for the model. `does` is called with the folders; `added` are files that it makes."""

    def __init__(self) -> None:
        self.added: dict[str, bytes] = {}
        self.does: Callable[[Path, Path], None] = lambda folder, output: None
        self.answer: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []

    def __call__(
        self,
        folder: Path,
        *,
        sample: str | None,
        parity: Parity | None,
        approved: frozenset[str],
        output: Path,
        timeout: float,
        memory: int,
    ) -> Examined:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        self.asked.append({"files": files, "sample": sample, "approved": approved, "timeout": timeout, "memory": memory})
        self.does(folder, output)
        for path, data in self.added.items():
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (output / path).write_bytes(data)
        fields = {
            "format": "dummy",
            "engine": "dummy",
            "entry": files[0],
            "signature": SIGNATURE,
            "parity": parity,
            "added": tuple(self.added),
            **self.answer,
        }
        return Examined(**fields)


class Registry:
    """Every service, and pushing in one call."""

    def __init__(self, settings: Settings, database: Database, now: Callable[[], float]) -> None:
        self.settings = settings
        self.database = database
        self.changes = 0
        self.blobs = open_blobs(settings)
        self.parts = Parts(settings)
        self.examine = FakeExamine()
        self.approvals = ApprovalService(database, now)
        self.uploads = UploadService(settings, database, self.blobs, self.parts, now)
        self.pushes = PushService(settings, database, self.blobs, self.parts, self.uploads, self.approvals, self.examine)
        self.models = ModelService(database, self._changed, now)
        self.versions = VersionService(database, self.blobs, now)
        self.datasets = DatasetService(database, self.blobs, now)
        self.aliases = AliasService(database, self._changed, now)
        self.garbage = GarbageService(settings, database, self.blobs, self.parts, now)
        self.keys = KeyService(settings, database, self._changed, now)

    def _changed(self) -> None:
        self.changes += 1

    def send(self, upload: UploadInfo, files: dict[str, bytes], project: str = DEFAULT_PROJECT) -> None:
        """All that is missing, in chunks."""
        for data in files.values():
            while (offset := self.uploads.get(upload.id, project=project).offsets.get(digest(data))) is not None:
                chunk = data[offset : offset + upload.chunk_size]
                self.uploads.write(upload.id, digest(data), offset, chunk, project=project)

    def push(self, name: str, files: dict[str, bytes] | None = None, **more: Any) -> PushResult:
        files = {"model.bin": b"weights"} if files is None else files
        upload = self.uploads.begin(upload_request(name, files, **more), actor="admin")
        self.send(upload, files)
        return self.pushes.complete(upload.id, actor="admin")

    def push_dataset(
        self, name: str, files: dict[str, bytes], label: str | None = None, project: str = DEFAULT_PROJECT
    ) -> DatasetPushResult:
        request = upload_request(name, files, kind="dataset", label=label, project=project)
        upload = self.uploads.begin(request, actor="admin", project=project)
        self.send(upload, files, project)
        return self.pushes.complete_dataset(upload.id, actor="admin", project=project)

    def stored(self) -> set[str]:
        return {sha256 for sha256, _ in self.blobs.list()}
