"""Follows control: takes each snapshot as it comes, keeps the newest on disk, and goes on with it while control is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from openmaas.core.contracts import ControlCall, Snapshot, encode
from openmaas.core.errors import OpenMaaSError
from openmaas.core.link import connect
from openmaas.core.log import get_logger

_decode = msgspec.msgpack.Decoder(Snapshot).decode
_RETRY_FROM, _RETRY_TO = 0.05, 1.0


class Follower:
    """Hands every newer snapshot to `apply`, on the event loop.

    address: control on the link. path: where the newest snapshot is kept for a start without control.
    """

    def __init__(self, address: str, path: Path, apply: Callable[[Snapshot], None], peer: str) -> None:
        self._address = address
        self._path = path
        self._apply = apply
        self._peer = peer
        self._log = get_logger("follower")
        self.version = -1
        self.connected = False

    def recall(self) -> bool:
        """Apply the snapshot that the last run kept. False where there is none that can be read."""
        try:
            snapshot = _decode(self._path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return False
        self._take(snapshot, keep=False)
        return True

    async def run(self) -> None:
        """Follow until cancelled; control may come and go."""
        delay = _RETRY_FROM
        while True:
            try:
                await self._follow()
                delay = _RETRY_FROM
            except OpenMaaSError as error:
                if self.connected:
                    self._log.warning("control_lost", reason=error.message, snapshot=self.version)
                    delay = _RETRY_FROM
            except Exception:
                # A snapshot that cannot be read or applied: go on with the last one that could, and ask again.
                self._log.exception("snapshot_failed", snapshot=self.version)
            self.connected = False
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_TO)

    async def _follow(self) -> None:
        link = await connect(self._address)
        try:
            call = encode(ControlCall(operation="watch_snapshot", after=-1, peer=self._peer))
            async for chunk in link.stream(call):
                self._take(_decode(chunk), keep=True)
                self.connected = True
        finally:
            link.close()

    def _take(self, snapshot: Snapshot, *, keep: bool) -> None:
        if snapshot.version < self.version:
            # A database restored from a backup: what control says now is the truth, even with an older number.
            self._log.warning("snapshot_went_back", held=self.version, came=snapshot.version)
        self._apply(snapshot)
        self.version = snapshot.version
        if keep:
            self._keep(snapshot)

    def _keep(self, snapshot: Snapshot) -> None:
        """Best effort: a full disk must not stop the data plane."""
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(snapshot))
            temporary.replace(self._path)
        except OSError as error:
            self._log.warning("snapshot_not_kept", reason=error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()
