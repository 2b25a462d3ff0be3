"""A process that has imported the heavy libraries already and becomes the examining child of one model after another by fork.

Only so that the tests are quick: what the child does is the program's own, and test_sandbox.py and the acceptance tests start
it as the program does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO

from openmaas.core.errors import OpenMaaSError
from openmaas.engines.keras.model import import_keras

_IMPORTED = (
    "numpy", "onnx", "onnxscript", "torch", "torch.export", "torch.onnx._internal.exporter._core", "sklearn.ensemble",
    "skl2onnx", "transformers", "safetensors", "tokenizers", "onnxmltools", "openmaas.formats.examiner",
)  # fmt: skip


class WarmExaminer:
    """Started once for a session; `start` stands in for sandbox._start."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL") if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "HOME": "/nonexistent"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
            )

    def start(self, scratch: Path, stdout: IO[bytes], stderr: IO[bytes]) -> Child:
        reading, writing = os.pipe()
        socket.send_fds(self._door, [str(scratch).encode()], [reading, stdout.fileno(), stderr.fileno()])
        os.close(reading)
        return Child(self._door, writing, self._process.pid)

    def close(self) -> None:
        self._door.close()
        self._process.wait(60)


class Child:
    """What sandbox._wait needs of a subprocess.Popen."""

    def __init__(self, door: socket.socket, stdin: int, parent: int) -> None:
        self._door = door
        self._stdin = stdin
        self._parent = parent
        self.pid = int(door.recv(16))
        self.returncode: int | None = None

    def communicate(self, request: bytes, timeout: float) -> None:
        told = json.dumps(json.loads(request) | {"parent": self._parent}).encode()
        with os.fdopen(self._stdin, "wb") as stdin, contextlib.suppress(BrokenPipeError):
            stdin.write(told)
        self._door.settimeout(timeout)
        try:
            self.wait()
        except TimeoutError:
            raise subprocess.TimeoutExpired("examiner", timeout) from None
        finally:
            self._door.settimeout(None)

    def wait(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._door.recv(16)))


def _serve(door: socket.socket) -> None:
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(OpenMaaSError):
        import_keras()
    while True:
        scratch, files, _, _ = socket.recv_fds(door, 4096, 3)
        if not scratch:
            return
        pid = os.fork()
        if pid == 0:
            door.close()
            _become(scratch.decode(), files)
        for file in files:
            os.close(file)
        door.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        door.send(str(status).encode())


def _become(scratch: str, files: list[int]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.chdir(scratch)
        os.environ |= {"HOME": scratch, "TMPDIR": scratch}
        from openmaas.formats.examiner import main

        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        _serve(ours)
