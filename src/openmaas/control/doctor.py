"""The server's look at itself: one finding for each thing that can be wrong, and what to do about it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import random
import resource
import shutil
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points

from sqlalchemy import func, select, text

from openmaas import __version__
from openmaas.control.deployments import DeploymentService
from openmaas.control.keys import admin_key_path, good_keys
from openmaas.control.observed import Fleet
from openmaas.core.errors import OpenMaaSError
from openmaas.core.keys import digest_key
from openmaas.core.resources import Finding
from openmaas.core.settings import Settings
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database, journal_mode
from openmaas.store.tables import BlobRow

_SPACE = 2**30
_OPEN_FILES = 4096
_BLOBS = 8  # looked at in one go
_BLOB_BYTES = 256 * 2**20  # read in one go


class DoctorService:
    """Looks at everything once, on demand. Each check ends with a finding, whatever goes wrong in it."""

    def __init__(
        self, settings: Settings, database: Database, blobs: BlobStore, fleet: Fleet, deployments: DeploymentService
    ) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._fleet = fleet
        self._deployments = deployments

    def examine(self) -> list[Finding]:
        checks = {
            "version": self._version,
            "supervisor": self._supervisor,
            "gateway": self._gateway,
            "database": self._data,
            "data folder": self._home,
            "disk": self._disk,
            "admin key": self._admin_key,
            "blobs": self._stored,
            "engines": self._engines,
            "open files": self._open_files,
            "deployments": self._failed,
        }
        findings = []
        for name, check in checks.items():
            try:
                findings.append(check(name))
            except (OpenMaaSError, OSError) as error:
                message = error.message if isinstance(error, OpenMaaSError) else error.strerror or str(error)
                findings.append(Finding(check=name, ok=False, message=message, next_step=getattr(error, "next_step", None)))
        return findings

    def _version(self, check: str) -> Finding:
        return Finding(check=check, ok=True, message=f"OpenMaaS {__version__}, Python {platform.python_version()}.")

    def _supervisor(self, check: str) -> Finding:
        if self._fleet.supervised:
            return Finding(check=check, ok=True, message="Reports regularly.")
        return Finding(
            check=check,
            ok=False,
            message="Has not reported for some seconds: replicas are not started or stopped.",
            next_step="openmaas down, then openmaas up",
        )

    def _gateway(self, check: str) -> Finding:
        host, port = self._settings.host, self._settings.http_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        with socket.create_connection((host, port), timeout=2):
            return Finding(check=check, ok=True, message=f"Answers on port {port}.")

    def _data(self, check: str) -> Finding:
        if self._database.dialect != "sqlite":
            with self._database.read() as session:
                return Finding(check=check, ok=True, message=str(session.scalar(text("SELECT version()"))).partition(" on ")[0])
        with self._database.read() as session:
            found = session.scalar(text("PRAGMA quick_check(1)"))
            journal = session.scalar(text("PRAGMA journal_mode"))
        message = f"SQLite {sqlite3.sqlite_version}, journal {journal}, check: {found}."
        if found == "ok" and str(journal).upper() == journal_mode():
            return Finding(check=check, ok=True, message=message)
        return Finding(check=check, ok=False, message=message, next_step="Stop the server and restore a copy of openmaas.db.")

    def _home(self, check: str) -> Finding:
        home = self._settings.home_path
        state = home.stat()
        if state.st_uid != os.getuid():
            return Finding(
                check=check, ok=False, message="Belongs to another user.", next_step=f"chown -R {os.getuid()} {home}"
            )
        if state.st_mode & 0o077:
            mode = f"{state.st_mode & 0o777:04o}"
            return Finding(check=check, ok=False, message=f"Open to others (mode {mode}).", next_step=f"chmod 700 {home}")
        return Finding(check=check, ok=True, message=f"{home}, for this user alone.")

    def _disk(self, check: str) -> Finding:
        usage = shutil.disk_usage(self._settings.home_path)
        message = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} GiB are free."
        if usage.free >= _SPACE:
            return Finding(check=check, ok=True, message=message)
        return Finding(check=check, ok=False, message=message, next_step="openmaas gc")

    def _admin_key(self, check: str) -> Finding:
        path = admin_key_path(self._settings)
        if not path.exists():
            return Finding(
                check=check,
                ok=False,
                message="admin.key is missing; the key itself stays good.",
                next_step=f"Put it back, or touch {path} and start again to have it replaced.",
            )
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            return Finding(
                check=check, ok=False, message=f"Others may read it (mode {mode:04o}).", next_step=f"chmod 600 {path}"
            )
        with self._database.read() as session:
            known = {key.digest for key in good_keys(session)}
        if digest_key(path.read_text().strip()) in known:
            return Finding(check=check, ok=True, message="admin.key holds a good key.")
        return Finding(
            check=check,
            ok=False,
            message="admin.key holds a key that is not good.",
            next_step=f"truncate -s 0 {path}, and start again",
        )

    def _stored(self, check: str) -> Finding:
        """Some blobs, chosen at random, held against their digests."""
        with self._database.read() as session:
            count, size = session.execute(select(func.count(), func.coalesce(func.sum(BlobRow.size), 0))).one()
            digests = session.scalars(select(BlobRow.sha256)).all()
        chosen = random.sample(digests, min(_BLOBS, len(digests)))
        found = dict(self._read(chosen))
        damaged = next((sha256 for sha256, digest in found.items() if sha256 != digest), None)
        if damaged is not None:
            return Finding(
                check=check,
                ok=False,
                message=f"The blob {damaged} is damaged.",
                next_step="Push the model that it belongs to again; damaged files are replaced.",
            )
        message = f"{count} blobs, {size / 2**20:.1f} MiB; {len(found)} of them were read and are intact."
        return Finding(check=check, ok=True, message=message)

    def _read(self, digests: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(expected, found) of blobs, until enough bytes were read."""
        budget = _BLOB_BYTES
        for sha256 in digests:
            budget -= self._blobs.size(sha256) or 0
            if budget >= 0:
                digest = hashlib.sha256()
                for chunk in self._blobs.read(sha256):
                    digest.update(chunk)
                yield sha256, digest.hexdigest()

    def _engines(self, check: str) -> Finding:
        """An engine is named after the library that it needs; the dummy needs none."""
        names = sorted(entry.name for entry in entry_points(group="openmaas.engines") if entry.name != "dummy")
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        there = ", ".join(name for name in names if name not in missing) or "none"
        message = f"Installed: {there}." + (f" Not installed: {', '.join(missing)}." if missing else "")
        return Finding(
            check=check,
            ok="onnxruntime" not in missing,
            message=message,
            next_step=f"pip install 'openmaas[{missing[0]}]'" if missing else None,
        )

    def _open_files(self, check: str) -> Finding:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= _OPEN_FILES:
            return Finding(check=check, ok=True, message=f"Up to {soft} at once.")
        return Finding(
            check=check,
            ok=False,
            message=f"Only {soft} at once are allowed.",
            next_step=f"ulimit -n {_OPEN_FILES} before openmaas up",
        )

    def _failed(self, check: str) -> Finding:
        failed = [name for name, state in self._deployments.states().items() if state == "failed"][:10]
        if not failed:
            return Finding(check=check, ok=True, message="None has failed.")
        return Finding(check=check, ok=False, message=f"Failed: {', '.join(failed)}.", next_step=f"openmaas logs {failed[0]}")
