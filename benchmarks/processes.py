"""A server under test: started in a process group of its own, weighed and stopped as one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE = 10.0
"""Seconds a server gets to end by itself before it is killed."""


class ServerError(RuntimeError):
    """A server did not start, did not answer, or answered wrongly."""


@dataclass(frozen=True)
class Memory:
    """Bytes held by a process tree; pages shared between its processes count once in `pss`."""

    rss: int
    pss: int


class Server:
    """One running command with all its descendants."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self.environment = dict(environment or {})
        self.started = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                cwd=folder,
                start_new_session=True,
            )

    def tree(self) -> list[psutil.Process]:
        """The root and its living descendants."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def require_alive(self) -> None:
        """Raise with the end of the log when the root process has ended."""
        code = self._process.poll()
        if code is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise ServerError(f"the server ended with exit code {code}; its log ends:\n{tail}")

    def memory(self) -> Memory:
        rss = pss = 0
        for process in self.tree():
            try:
                held = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            rss += held.rss
            pss += held.pss
        return Memory(rss, pss)

    def cpu_seconds(self) -> float:
        """CPU time used so far by the living processes of the tree."""
        total = 0.0
        for process in self.tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def stop(self) -> None:
        """End the tree: politely to the root, then by force to whatever is left."""
        # Asked for before the root ends: orphans are no longer its children afterwards.
        members = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        _, stubborn = psutil.wait_procs(members, timeout=2.0)
        for process in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(stubborn, timeout=PATIENCE)
        self._process.wait(PATIENCE)


def free_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
