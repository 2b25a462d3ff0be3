"""The life of a replica process: files, limits, engine, warm-up, then the link until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from pathlib import Path

from openmaas.core.contracts import ReplicaSpec
from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.link import LinkServer
from openmaas.core.log import get_logger
from openmaas.core.memory import settle
from openmaas.core.settings import Settings

DO_NOT_RETRY = 3
"""Exit status of a replica whose model can never be loaded as things are: restarting it would change nothing."""


async def serve(spec: ReplicaSpec, address: str, settings: Settings) -> None:
    """Load the version and answer at `address` until SIGTERM, then drain.

    Raises SystemExit(DO_NOT_RETRY) after writing the cause as the last line on stderr when the model cannot be loaded.
    """
    limit_threads(spec.threads)
    if spec.memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory, spec.memory))
    # Imported after the limits: numpy's and the engine's libraries read the thread settings when they are loaded.
    from openmaas.replica.server import ReplicaServer

    log = get_logger("replica")
    engine, processor = _load(spec, settings)
    log.info("loaded", replica=spec.id, model=spec.model, version=spec.version, engine=engine.describe())
    server = ReplicaServer(spec, engine, settings.max_body, processor)
    link = LinkServer(server.handle, health=server.health)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settle()
    await link.listen(address)
    await stop.wait()
    log.info("draining", replica=spec.id)
    if not await link.drain(settings.drain_timeout):
        log.warning("drain_incomplete", replica=spec.id, in_flight=server.batcher.in_flight)
    server.close()
    link.close()


def limit_threads(threads: int) -> None:
    """Keep the numeric libraries' own thread pools to what the engine may use."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, threads)))


def _load(spec: ReplicaSpec, settings: Settings):  # type: ignore[no-untyped-def]
    from openmaas.engines import EngineSpec, create_engine
    from openmaas.processing import open_processing

    try:
        folder = _files(spec, settings)
        choice = spec.choice or spec.manifest.choice
        engine = create_engine(choice.engine)
        threads = max(1, choice.threads or spec.threads)
        engine.load(EngineSpec(folder=folder, manifest=spec.manifest, threads=threads, choice=choice))
        engine.warm()
        processor = open_processing(spec.manifest, folder)
    except MemoryError:
        limit = f"{spec.memory / 2**20:.0f} MiB" if spec.memory else "the machine's"
        fail("memory_limit", f"The model does not fit into its memory limit ({limit}).")
    except OpenMaaSError as error:
        fail(error.code if error.code != EngineFailed.default_code else "load_failed", str(error))
    return engine, processor


def _files(spec: ReplicaSpec, settings: Settings) -> Path:
    from openmaas.store.blobs import open_blobs

    return open_blobs(settings).materialize(spec.manifest, settings.home_path / "cache" / spec.digest)


def fail(code: str, message: str) -> None:
    """End the process with a cause that the supervisor can read."""
    sys.stderr.write(json.dumps({"openmaas_cause": {"code": code, "message": message}}) + "\n")
    sys.stderr.flush()
    raise SystemExit(DO_NOT_RETRY)
