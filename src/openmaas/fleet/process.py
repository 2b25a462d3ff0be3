"""One child process, from spawn to exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from openmaas.fleet.output import Output

_LAST_WORDS = 0.5  # seconds that output may still come after the exit: a grandchild can hold the pipe open for ever


@dataclass(frozen=True)
class Launch:
    """How to start a child: its command line, its whole environment, and what it reads on stdin."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    stdin: bytes = field(default=b"", repr=False)


class Process(asyncio.SubprocessProtocol):
    """A running child. It leads a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone.

    ended: resolves with the exit status (negative: the signal that ended it) once its last output has been read.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._transport: asyncio.SubprocessTransport | None = None
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, launch: Launch, output: Output) -> Process:
        """Spawn the child. Raises OSError where the system cannot."""
        loop = asyncio.get_running_loop()
        output.begin()
        with tempfile.TemporaryFile() as stdin:
            stdin.write(launch.stdin)
            stdin.seek(0)
            _, protocol = await loop.subprocess_exec(
                lambda: cls(output),
                *launch.command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(launch.environment),
                start_new_session=True,
            )
        return protocol

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return self._transport.get_pid()

    def terminate(self) -> None:
        """Ask it to drain and stop."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):  # it ended, and the loop has not heard of it yet
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and whatever it started; a stopped process ends too."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, timeout: float) -> int:
        """SIGTERM, then SIGKILL after `timeout` seconds. Returns the exit status."""
        self.terminate()
        await asyncio.wait({self.ended}, timeout=timeout)
        self.kill()
        return await self.ended

    @property
    def _running(self) -> bool:
        return self._transport is not None and self._transport.get_returncode() is None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes | bytearray) -> None:
        self._output.write(bytes(data))

    def process_exited(self) -> None:
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        assert self._transport is not None
        status = self._transport.get_returncode()
        self._output.end()
        if not self.ended.done() and status is not None:
            self.ended.set_result(status)
        self._transport.close()
