"""What crosses a process border. Everything here travels over the link as msgpack.

Snapshot            control → gateway       what is deployed, where it runs, which keys are good
Desired / Observed  control ↔ supervisor    which replicas should run, and what became of them
Call / Answer       gateway → replica       one request's head; its body follows untouched
Health              replica → everyone      the answer to a ping: progress, not existence
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from openmaas.core.manifest import EngineChoice, Manifest

# ── control → gateway ────────────────────────────────────────────────────────────────────────────────────────────────


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """Where one replica listens: `unix:/path` or `tcp:host:port`."""

    id: str
    version: int
    address: str


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A public name and what stands behind it.

    traffic: share of each version number, in any unit. aliases: those of the model that name one of the versions here.
    timeout: seconds that a request may take when it does not say otherwise. created: Unix time of the first revision.
    """

    name: str
    project: str
    model: str
    traffic: dict[int, float]
    aliases: dict[str, int] = {}
    replicas: tuple[Replica, ...] = ()
    timeout: float = 60.0
    created: float = 0.0


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A good key: SHA-256 digest of the whole key in hex, never the key."""

    id: str
    digest: str
    role: str
    project: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway knows. `version` only grows."""

    version: int
    deployments: tuple[Deployment, ...] = ()
    keys: tuple[Key, ...] = ()


# ── control ↔ supervisor ─────────────────────────────────────────────────────────────────────────────────────────────


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that should run. The id is unique for ever: deployment, revision and index.

    memory: bytes, None for no limit. threads: of the engine, 0 lets it share the cores evenly. max_batch: rows.
    max_queue: requests waiting. max_wait: seconds to wait for batch-mates, 0 dispatches at once. timeout: seconds.
    max_tokens: of one batch with its padding, where rows are sequences; 0 for a default. choice: None for the manifest's own.
    """

    id: str
    deployment: str
    revision: int
    project: str
    model: str
    version: int
    digest: str
    manifest: Manifest
    memory: int | None = None
    threads: int = 0
    max_batch: int = 32
    max_queue: int = 1024
    max_wait: float = 0.0
    timeout: float = 60.0
    max_tokens: int = 0
    choice: EngineChoice | None = None


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a job that should run. The pair of id and attempt is unique for ever: attempt counts every process that
    was asked for, also one that was put back when the server stopped.

    kind: which task (entry point group openmaas.tasks). arguments: its own. key: an API key that is good while the job runs;
    empty in any Desired after the first, since only a process that starts needs it.
    """

    id: str
    attempt: int
    kind: str
    project: str
    arguments: dict[str, Any] = {}
    key: str = ""

    @property
    def name(self) -> str:
        """Of this process's files and folders."""
        return f"{self.id}.{self.attempt}"


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """All replicas and jobs that should run; any other is drained and stopped. `version` only grows."""

    version: int
    replicas: tuple[ReplicaSpec, ...] = ()
    jobs: tuple[JobSpec, ...] = ()


ReplicaState = Literal["starting", "ready", "hung", "backoff", "failed", "draining", "stopped"]


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why something does not run: a code to search for, a sentence, the last lines of its stderr, one next command."""

    code: str
    message: str
    stderr: tuple[str, ...] = ()
    next_step: str = ""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a replica. `memory` is resident bytes; `since` a Unix time; `restarts` counts starts after the first."""

    id: str
    state: ReplicaState
    address: str
    pid: int | None = None
    restarts: int = 0
    memory: int = 0
    since: float = 0.0
    cause: Cause | None = None


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process of ours that is not a replica: supervisor, control, gateway-0 …"""

    name: str
    state: Literal["starting", "ready", "backoff", "stopped"]
    pid: int | None = None
    restarts: int = 0
    memory: int = 0
    url: str | None = None


SERVER_STOPPED = "server_stopped"
"""Code of the cause of a job that ended only because the server was asked to stop: it is put back and runs again."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt's process: it runs, or it ended, with a cause where that was not by itself in good order."""

    id: str
    attempt: int
    state: Literal["running", "ended"]
    pid: int | None = None
    memory: int = 0
    cause: Cause | None = None


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, whole, each time it changes and at least every 2 s. `desired` is the version that it answers to."""

    desired: int
    replicas: tuple[ReplicaStatus, ...] = ()
    jobs: tuple[JobStatus, ...] = ()
    processes: tuple[ProcessStatus, ...] = ()


# ── gateway → replica ────────────────────────────────────────────────────────────────────────────────────────────────

Operation = Literal[
    "infer", "v1_predict", "predict", "metadata", "config", "statistics", "chat", "completions", "responses", "embeddings",
    "tokenize", "detokenize", "generate", "generate_stream",
]  # fmt: skip


class Call(msgspec.Struct, array_like=True):
    """The head of one request. The body travels as the frame's payload, as the client sent it.

    timeout: seconds left, counted from arrival. json_size: Inference-Header-Content-Length, -1 when there was none.
    top: how many classes the caller wants named, 0 where they did not say. project: the caller's own.
    """

    operation: Operation
    request_id: str
    timeout: float
    content_type: str = ""
    content_encoding: str = ""
    accept_encoding: str = ""
    json_size: int = -1
    deployment: str = ""
    top: int = 0
    project: str = ""


class Timing(msgspec.Struct, array_like=True):
    """Where the time went inside a replica, in seconds: waiting in the queue, making and splitting the batch, the engine.

    prepare: making the engine's inputs of texts, images or a table.
    """

    queue: float = 0.0
    batch: float = 0.0
    model: float = 0.0
    rows: int = 1
    prepare: float = 0.0


class Answer(msgspec.Struct, array_like=True):
    """The head of one answer. The body travels as the frame's payload, as the client will read it.

    A streamed answer is chunks and an end; its head travels as the header of the first chunk.
    """

    status: int = 200
    content_type: str = "application/json"
    content_encoding: str = ""
    json_size: int = -1
    timing: Timing | None = None


class Health(msgspec.Struct, array_like=True):
    """A replica's answer to a ping. stalled: seconds that the running batch has gone on without an end."""

    ready: bool
    answered: int = 0
    in_flight: int = 0
    queued: int = 0
    stalled: float = 0.0


# ── operations of the control link ───────────────────────────────────────────────────────────────────────────────────


class ControlCall(msgspec.Struct, frozen=True):
    """A call on control's own link: watch_snapshot and watch_desired are streams of chunks, observe is a plain call."""

    operation: Literal["watch_snapshot", "watch_desired", "observe"]
    after: int = -1
    peer: str = ""


encode = msgspec.msgpack.Encoder().encode
"""msgpack, the only form on the link."""
