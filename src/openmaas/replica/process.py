"""The life of a replica process: files, limits, engine, warm-up, then the link until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from openmaas.core.contracts import ReplicaSpec
from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.link import IncomingCall, LinkServer
from openmaas.core.log import get_logger
from openmaas.core.memory import settle
from openmaas.core.settings import Settings

if TYPE_CHECKING:
    from openmaas.engines import Engine

DO_NOT_RETRY = 3
"""Exit status of a replica whose model can never be loaded as things are: restarting it would change nothing."""
RETRY = 1
"""Exit status of one whose engine broke while it served: the next may do better."""
_TOLD = 1.0
"""Seconds that callers have to read why it ends, when its engine broke."""


class Server(Protocol):
    """What answers a replica's calls: server.ReplicaServer, or generation.GenerationServer where it generates text."""

    @property
    def engine(self) -> Engine: ...

    @property
    def in_flight(self) -> int: ...

    def handle(self, call: IncomingCall) -> None: ...

    def health(self) -> bytes: ...

    def close(self) -> None: ...


async def serve(spec: ReplicaSpec, address: str, settings: Settings) -> None:
    """Load the version and answer at `address` until SIGTERM, then drain.

    Raises SystemExit(DO_NOT_RETRY) after writing the cause as the last line on stderr when the model cannot be loaded.
    """
    limit_threads(spec.threads)
    if spec.memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory, spec.memory))
    log = get_logger("replica")
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[OpenMaaSError | None] = loop.create_future()

    def end(cause: OpenMaaSError | None = None) -> None:
        if not stop.done():
            stop.set_result(cause)

    server = await _load(spec, settings, end)
    log.info("loaded", replica=spec.id, model=spec.model, version=spec.version, engine=server.engine.describe())
    link = LinkServer(server.handle, health=server.health)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    settle()
    await link.listen(address)
    broken = await stop
    log.info("draining", replica=spec.id)
    if not await link.drain(_TOLD if broken else settings.drain_timeout):
        log.warning("drain_incomplete", replica=spec.id, in_flight=server.in_flight)
    server.close()
    link.close()
    if broken is not None:
        fail(broken.code, str(broken), RETRY)


def limit_threads(threads: int) -> None:
    """Keep the numeric libraries' own thread pools to what the engine may use."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, threads)))


async def _load(spec: ReplicaSpec, settings: Settings, on_broken: Callable[[OpenMaaSError], None]) -> Server:
    # Imported after the limits: numpy's and the engine's libraries read the thread settings when they are loaded.
    from openmaas.engines import EngineSpec, create_engine

    try:
        folder = _files(spec, settings)
        choice = spec.choice or spec.manifest.choice
        engine = create_engine(choice.engine)
        threads = max(1, choice.threads or spec.threads)
        engine.load(EngineSpec(folder=folder, manifest=spec.manifest, threads=threads, choice=choice))
        engine.warm()
        return await _server(spec, engine, folder, settings.max_body, on_broken)
    except MemoryError:
        limit = f"{spec.memory / 2**20:.0f} MiB" if spec.memory else "the machine's"
        fail("memory_limit", f"The model does not fit into its memory limit ({limit}).")
    except OpenMaaSError as error:
        fail(error.code if error.code != EngineFailed.default_code else "load_failed", str(error))


async def _server(
    spec: ReplicaSpec, engine: Engine, folder: Path, max_body: int, on_broken: Callable[[OpenMaaSError], None]
) -> Server:
    if spec.manifest.generator is None:
        from openmaas.processing import open_processing
        from openmaas.replica.server import ReplicaServer

        return ReplicaServer(spec, engine, max_body, open_processing(spec.manifest, folder))
    from openmaas.engines import GenerationEngine
    from openmaas.processing.generation import open_generation
    from openmaas.replica.generation import GenerationServer

    if not isinstance(engine, GenerationEngine):
        raise EngineFailed(f"The engine {engine.name} generates no text, and this version does nothing else.")
    text = open_generation(spec.manifest, folder)
    if text.template is not None:
        await text.template.start()  # a process that ends with this one
    return GenerationServer(spec, engine, max_body, text, on_broken)


def _files(spec: ReplicaSpec, settings: Settings) -> Path:
    from openmaas.store.blobs import open_blobs

    return open_blobs(settings).materialize(spec.manifest, settings.home_path / "cache" / spec.digest)


def fail(code: str, message: str, status: int = DO_NOT_RETRY) -> NoReturn:
    """End the process with a cause that the supervisor can read."""
    sys.stderr.write(json.dumps({"openmaas_cause": {"code": code, "message": message}}) + "\n")
    sys.stderr.flush()
    raise SystemExit(status)
