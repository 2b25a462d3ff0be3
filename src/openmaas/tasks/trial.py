"""The child process of one way to run a version: `python -I -m openmaas.tasks.trial DESCRIPTOR`, started by candidate.py.

Over a socket it is told to load, to answer, to be timed; whatever the engine does to it, a crash included, harms nothing else.
Messages are msgpack behind their length in 8 bytes, never pickle: what runs here is somebody's model.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype, to_bytes
from openmaas.core.errors import OpenMaaSError, without_paths
from openmaas.core.manifest import EngineChoice, Manifest

if TYPE_CHECKING:
    from openmaas.engines import Engine

Arrays = dict[str, NDArray[Any]]

_MOST_CALLS = 200_000  # that are timed for one order; more would say no more


class Packed(msgspec.Struct, frozen=True):
    """An array: its raw bytes, or for BYTES its elements. dtype: numpy's name."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Load and warm. memory: bytes that its data may take; parent: without which it must not go on."""

    folder: str
    manifest: Manifest
    choice: EngineChoice
    threads: int
    memory: int
    parent: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """Answer to all rows, `step` in each call; 0 answers all in one."""

    inputs: dict[str, Packed]
    step: int


class Clock(msgspec.Struct, frozen=True, tag=True):
    """Run the same batch again and again for so many seconds, once at least, _MOST_CALLS times at most.

    again: a run before that does not count, also where the shape is known: caches are cold after others have had their turns.
    """

    inputs: dict[str, Packed]
    seconds: float
    again: bool = False


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Generate from all these prompts at once, for so many seconds. context: tokens that prompt and answer may have."""

    prompts: list[list[int]]
    context: int
    seconds: float


class GoOn(msgspec.Struct, frozen=True, tag=True):
    """Generate from all these prompts, so many tokens from each, always the likeliest."""

    prompts: list[list[int]]
    most: int


Order = Load | Answer | Clock | Decode | GoOn


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of an order. error: a code and a sentence. memory: the most resident bytes until now; times: seconds a run.

    rate: tokens a second. tokens: of each prompt, how it goes on. processor: seconds of all threads of the process while it was
    timed.
    """

    error: tuple[str, str] | None = None
    answers: dict[str, Packed] = {}
    times: tuple[float, ...] = ()
    rate: float = 0.0
    tokens: list[list[int]] = []
    processor: float = 0.0
    library: str = ""
    memory: int = 0


def pack(arrays: Mapping[str, Any]) -> dict[str, Packed]:
    """Raises OpenMaaSError for what is no tensor."""
    return {name: _pack(name, np.asarray(array)) for name, array in arrays.items()}


def _pack(name: str, array: NDArray[Any]) -> Packed:
    if array.dtype.kind in "OSU":
        return Packed("object", array.shape, to_bytes(array).ravel().tolist())
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise OpenMaaSError(f"The output {name!r} has the type {array.dtype}, which is no tensor.", code="wrong_type")
    return Packed(array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes())


def unpack(packed: Mapping[str, Packed]) -> Arrays:
    return {name: _unpack(one) for name, one in packed.items()}


def _unpack(packed: Packed) -> NDArray[Any]:
    if isinstance(packed.data, list):
        flat = np.empty(len(packed.data), dtype=object)
        flat[:] = packed.data
        return flat.reshape(packed.shape)
    dtype = numpy_dtype("BF16") if packed.dtype == "bfloat16" else np.dtype(packed.dtype)
    return np.frombuffer(bytearray(packed.data), dtype).reshape(packed.shape)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def send(connection: socket.socket, message: Order | Report) -> None:
    body = msgspec.msgpack.encode(message)
    connection.sendall(len(body).to_bytes(8, "big") + body)


def receive(connection: socket.socket) -> bytes:
    """A message's body. Raises EOFError when the other side is gone, TimeoutError after the socket's own time."""
    return _exactly(connection, int.from_bytes(_exactly(connection, 8), "big"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    body = bytearray()
    while len(body) < size:
        piece = connection.recv(min(size - len(body), 1 << 20))
        if not piece:
            raise EOFError
        body += piece
    return bytes(body)


# ── the child ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Trial:
    """Carries the orders out, one after the other."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._run: Callable[[Arrays], Mapping[str, Any]] | None = None
        self._requests = 0
        self._warmed: set[tuple[tuple[int, ...], ...]] = set()

    def obey(self, order: Order) -> Report:
        """What came of it; an engine's failure is told, not raised."""
        try:
            return self._obey(order)
        except MemoryError:
            return Report(error=("memory_limit", "It takes more memory than there is for it."), memory=_peak())
        except OpenMaaSError as error:
            return Report(error=(error.code, error.message), memory=_peak())
        except Exception as error:
            said = without_paths(" ".join(str(error).split()))[:400]
            return Report(error=("", f"{type(error).__name__}: {said}"), memory=_peak())

    def _obey(self, order: Order) -> Report:
        if isinstance(order, Load):
            return Report(library=self._load(order), memory=_peak())
        assert self._run is not None
        if isinstance(order, Decode):
            start = time.process_time()
            rate = self._decode(order)
            return Report(rate=rate, processor=time.process_time() - start, memory=_peak())
        if isinstance(order, GoOn):
            return Report(tokens=self._go_on(order), memory=_peak())
        if isinstance(order, Answer):
            return Report(answers=pack(self._answer(unpack(order.inputs), order.step)), memory=_peak())
        times, processor = self._clock(unpack(order.inputs), order.seconds, order.again)
        return Report(times=tuple(times), processor=processor, memory=_peak())

    def _load(self, order: Load) -> str:
        _limit(order)
        from openmaas.engines import EngineSpec, create_engine

        engine = create_engine(order.choice.engine)
        folder = Path(order.folder)
        engine.load(EngineSpec(folder=folder, manifest=order.manifest, threads=order.threads, choice=order.choice))
        engine.warm()
        self._engine, self._run = engine, engine.run
        told = engine.describe()
        return " ".join(filter(None, (told.get("library", ""), told.get("version", ""))))

    def _decode(self, order: Decode) -> float:
        from openmaas.engines import GenerationEngine
        from openmaas.tasks.decoding import decode_rate

        assert isinstance(self._engine, GenerationEngine)
        self._requests += len(order.prompts)
        return decode_rate(self._engine, order.prompts, order.context, order.seconds, self._requests)

    def _go_on(self, order: GoOn) -> list[list[int]]:
        from openmaas.engines import GenerationEngine
        from openmaas.tasks.decoding import go_on

        assert isinstance(self._engine, GenerationEngine)
        self._requests += len(order.prompts)
        return go_on(self._engine, order.prompts, order.most, self._requests)

    def _answer(self, inputs: Arrays, step: int) -> Mapping[str, Any]:
        assert self._run is not None
        count = len(next(iter(inputs.values()))) if step else 1
        parts = [
            self._run({name: array[start : start + step] for name, array in inputs.items()} if step else inputs)
            for start in range(0, count, step or 1)
        ]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _clock(self, inputs: Arrays, seconds: float, again: bool) -> tuple[list[float], float]:
        assert self._run is not None
        shapes = tuple(array.shape for array in inputs.values())
        if again or shapes not in self._warmed:  # the first run of a shape prepares it
            self._run(inputs)
            self._warmed.add(shapes)
        times: list[float] = []
        processor = time.process_time()
        until = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            self._run(inputs)
            end = time.perf_counter()
            times.append(end - start)
            if end >= until or len(times) >= _MOST_CALLS:
                return times, time.process_time() - processor


def _limit(order: Load) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the job
    if os.getppid() != order.parent:
        os._exit(1)
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, order.memory)):
        _, hard = resource.getrlimit(limit)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))


def _peak() -> int:
    """The most resident bytes of this process since it began."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    trial = _Trial()
    while True:
        try:
            order = msgspec.msgpack.decode(receive(connection), type=Order)
        except EOFError:
            return
        send(connection, trial.obey(order))


if __name__ == "__main__":
    main()
