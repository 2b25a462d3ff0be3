"""API keys: who a caller is. Only digests are stored; the first admin key is made at the first start.

The admin key lies in `admin.key` in the data folder, for the command line on this machine. A lost one is replaced by emptying
that file and starting again: who may write there owns the database as well.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from openmaas.core import contracts
from openmaas.core.errors import Refused, Unauthenticated
from openmaas.core.keys import digest_key, looks_like_key, make_key
from openmaas.core.log import get_logger
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.files import full_disk, sync_folder, write_all
from openmaas.store.tables import KeyRow

ADMIN = "admin"
JOB = "job"
_MAX_TEXT = 512  # characters of a credential that are looked at


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the key's id, its role and its project."""

    id: str
    role: str
    project: str


class KeyService:
    """Makes the admin key and recognises keys. `changed` is called when the set of good keys changes."""

    def __init__(
        self, settings: Settings, database: Database, changed: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._path = admin_key_path(settings)
        self._database = database
        self._changed = changed
        self._clock = clock
        self._good: tuple[contracts.Key, ...] = ()
        self._refreshing = threading.Lock()
        self.refresh()

    def ensure_admin(self) -> str | None:
        """Make sure that there is an admin key. A key that was made just now, to be shown once; None when there was one.

        Raises Refused when `admin.key` cannot be written or holds something else.
        """
        text = _read_key(self._path)
        known = self._admins()
        if text and digest_key(text) in {key.digest for key in known}:
            return None
        if text is None and known:
            get_logger("key").warning(
                "admin.key is missing; keys that were made before stay good",
                path=str(self._path),
                next_step="Put the key back, or make an empty file admin.key there and start again to replace a lost key.",
            )
            return None
        made = None if text else self._write_key()
        self._store(text or made or "", replace=not text)
        return made

    def authenticate(self, text: str | None) -> Principal:
        """Whose key this is. Raises Unauthenticated for none, a mistyped, an unknown or a revoked one."""
        if not text:
            raise Unauthenticated(
                "This needs an API key.",
                next_step="Send 'Authorization: Bearer KEY' (or 'X-API-Key'); see admin.key in OPENMAAS_HOME.",
            )
        if not looks_like_key(text[:_MAX_TEXT]):
            raise Unauthenticated(
                "That is not an API key, or it is mistyped.", next_step="Compare it with the one that you were given."
            )
        digest, found = digest_key(text), None
        for key in self._good:  # all of them, whichever fits: the time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated(
                "This API key is not known here, or it was revoked.", next_step="Ask the server's admin for another."
            )
        return Principal(found.id, found.role, found.project)

    def revoke(self, key: str) -> None:
        """Make the key with this id worthless, from the return of this call on."""
        with self._database.write() as session:
            self.retire(session, key)
        self.refresh()
        self._changed()

    def make_job_key(self, session: Session, key: str, project: str) -> str:
        """A key with this id for a job's process, within a write transaction; `refresh` makes it good after the commit."""
        text = make_key()
        session.add(
            KeyRow(id=key, digest=digest_key(text), role=JOB, project=project, created_at=self._clock(), revoked_at=None)
        )
        return text

    def retire(self, session: Session, key: str) -> None:
        """Make a key worthless, within a write transaction; `refresh` makes it so after the commit."""
        session.execute(update(KeyRow).where(KeyRow.id == key, KeyRow.revoked_at.is_(None)).values(revoked_at=self._clock()))

    def refresh(self) -> None:
        """Know the good keys as they stand in the database now."""
        with self._refreshing, self._database.read() as session:  # one at a time: an older view never replaces a newer one
            self._good = good_keys(session)

    def _admins(self) -> list[contracts.Key]:
        return [key for key in self._good if key.role == ADMIN]

    def _write_key(self) -> str:
        """A new key in a file that nobody else may read, on the disk before its digest is stored."""
        key = make_key()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with _told(self._path), full_disk():
            self._path.unlink(missing_ok=True)  # an empty one, or it would hold a key
            descriptor = os.open(self._path, flags, 0o600)
            try:
                write_all(descriptor, f"{key}\n".encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self._path.parent)
        return key

    def _store(self, text: str, *, replace: bool) -> None:
        now = self._clock()
        with self._database.write() as session:
            if replace:
                live = update(KeyRow).where(KeyRow.role == ADMIN, KeyRow.revoked_at.is_(None))
                session.execute(live.values(revoked_at=now))
            digest = digest_key(text)
            if session.scalar(select(KeyRow.id).where(KeyRow.digest == digest)) is not None:
                raise Refused(
                    f"The key in {str(self._path)!r} was revoked.",
                    code="bad_admin_key",
                    next_step="Empty the file to have a new one made.",
                )
            session.add(
                KeyRow(
                    id=_next_id(session), digest=digest, role=ADMIN, project=DEFAULT_PROJECT, created_at=now, revoked_at=None
                )
            )
        self.refresh()
        self._changed()


def admin_key_path(settings: Settings) -> Path:
    return settings.home_path / "admin.key"


def good_keys(session: Session) -> tuple[contracts.Key, ...]:
    """Every key that is not revoked."""
    rows = session.scalars(select(KeyRow).where(KeyRow.revoked_at.is_(None)).order_by(KeyRow.id))
    return tuple(contracts.Key(id=row.id, digest=row.digest, role=row.role, project=row.project) for row in rows)


def _next_id(session: Session) -> str:
    """`admin`, and `admin-2` and so on for those that replace it: an id is never given twice."""
    made = len(session.scalars(select(KeyRow.id).where(KeyRow.role == ADMIN)).all())
    return f"{ADMIN}-{made + 1}" if made else ADMIN


def _read_key(path: Path) -> str | None:
    """The key in the file, "" for an empty file, None where there is none."""
    with _told(path):
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            return None
    if text and not looks_like_key(text):
        raise Refused(
            f"The file {str(path)!r} holds no API key.",
            code="bad_admin_key",
            next_step="Put the key back, or empty the file to have a new one made.",
        )
    return text


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(
            f"The file {str(path)!r} cannot be used ({reason}).",
            code="home_not_writable",
            next_step="Set OPENMAAS_HOME to a folder of your own.",
        ) from None
