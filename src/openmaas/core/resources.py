"""What control's REST API sends and takes. Declared once: the API answers with these, the client returns them.

Plain dataclasses, because both FastAPI (the API's documentation) and msgspec (the client) read them. Times are Unix seconds,
sizes bytes, digests SHA-256 in hex. Bodies that come in refuse unknown fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

T = TypeVar("T")
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """One page of a listing. `next` asks for the page after it; None on the last. `total` counts all that match."""

    items: list[T]
    total: int
    next: str | None = None


# ── registry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """A row of `openmaas ls`."""

    name: str
    project: str
    versions: int
    latest: int | None
    format: str | None
    size: int
    aliases: dict[str, int]
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """A version, whole. `manifest` is openmaas.core.manifest.Manifest as JSON; `digest` is its SHA-256.

    measurement: openmaas.core.measurement.Measurement as JSON, the newest on this server's processor, with the `job` and `at`;
    measuring: id of a job that is at it. variant: openmaas.core.evaluations.Entrant as JSON, what the newest comparison with a
    version that it was made of said, with `baseline`, `baseline_figures`, `metric`, `dataset`, `job` and `at`. All three are
    only told of a version that is asked for by itself.
    """

    model: str
    project: str
    number: int
    digest: str
    format: str
    engine: str
    size: int
    manifest: dict[str, Any]
    metadata: dict[str, Any]
    card: str
    aliases: list[str]
    created_at: float
    created_by: str
    parent: str | None
    recipe: str | None
    measurement: dict[str, Any] | None = None
    measuring: str | None = None
    variant: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """One row of an alias's history. `number` is None where the alias was removed; `action` is set, rollback or remove."""

    id: int
    model: str
    alias: str
    number: int | None
    previous: int | None
    action: Literal["set", "rollback", "remove"]
    actor: str
    at: float


@dataclass(frozen=True, kw_only=True)
class AliasChange:
    """Move an alias to the version with this number. force: although its gate refuses, for the reason that is kept with it."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    number: int
    force: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class VersionChange:
    """Free metadata and the card of a version; None leaves them as they are."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    metadata: dict[str, Any] | None = None
    card: str | None = None


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class UploadFile:
    """A file to come. `path` relative with '/', `size` in bytes, `sha256` in lower-case hex."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """Begin, or find again, an upload: the same name and files give the same upload, so that a killed one goes on.

    sample: path of the file among `files` that holds sample inputs, if there is one. parity: what the client compared where
    it converted a live object (openmaas.core.manifest.Parity as JSON).
    kind: what becomes of it; a dataset has a name, files and perhaps a label: the column that is predicted.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    name: str
    files: list[UploadFile]
    project: str = "default"
    sample: str | None = None
    parity: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    card: str | None = None
    parent: str | None = None
    recipe: str | None = None
    kind: Literal["model", "dataset"] = "model"
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadInfo:
    """How far an upload is. `offsets` gives, by sha256, the bytes already there of each file that is not complete;
    a digest that is missing from it needs no more bytes."""

    id: str
    name: str
    chunk_size: int
    offsets: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What came of a completed upload. `created` is False when the newest version had exactly these files already.

    jobs: ids of those that were begun by it, such as the measurement of engines.
    left_out: files of the pushed folder that the model does without; only the client that did not send them knows.
    """

    version: VersionInfo
    created: bool
    stored_bytes: int
    left_out: tuple[str, ...] = ()
    jobs: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A row of `openmaas data ls`: format, rows and size (bytes) of the newest version."""

    name: str
    project: str
    versions: int
    latest: int
    format: str
    purpose: str
    rows: int
    size: int
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A dataset's version, whole. `manifest` is openmaas.core.datasets.DatasetManifest as JSON; `digest` is its SHA-256."""

    name: str
    project: str
    number: int
    digest: str
    format: str
    purpose: str
    rows: int
    size: int
    manifest: dict[str, Any]
    created_at: float
    created_by: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class DatasetPushResult:
    """What came of a completed upload of a dataset. `created` is False when the newest version is the same already.

    left_out: hidden files of the pushed folder; only the client that did not send them knows.
    """

    dataset: DatasetInfo
    created: bool
    stored_bytes: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Approval:
    """An admin's word that a file which runs code when it is loaded (a pickle) may be loaded: by its digest."""

    sha256: str
    reason: str
    actor: str
    at: float


@dataclass(frozen=True, kw_only=True)
class ApprovalRequest:
    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    sha256: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What garbage collection would free (`done` False) or has freed."""

    blobs: int
    bytes: int
    uploads: int
    done: bool
    digests: list[str]


# ── deployments ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """Deploy a version. `version` is a reference: digits, digits:3, digits@champion. `name` defaults to the model's.

    engine: auto follows a measurement; a name such as openvino:bf16 forces one. weights: of what generates text, as
    openmaas.core.generation.WEIGHTS has them. memory: bytes for each replica, None for no limit. threads: of the engine, 0
    shares the cores. max_batch: rows, of what generates text sequences that run together. max_queue: requests. max_wait and
    timeout: seconds. max_tokens: of one batch with its padding, where rows are sequences; 0 for a default.
    max_batch, max_queue and timeout are 32, 1024 and 60 where they are None; for what generates text 16, 128 and 600.
    force: although the deployment's gate refuses, for the reason that is kept with it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    version: str
    name: str | None = None
    replicas: int = 1
    memory: int | None = None
    threads: int = 0
    max_batch: int | None = None
    max_queue: int | None = None
    max_wait: float = 0.0
    timeout: float | None = None
    max_tokens: int = 0
    engine: str = "auto"
    weights: str = "auto"
    force: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The engine of a deployment, as after --engine. threads: 0 where it takes its replica's share. why: how it was chosen."""

    name: str
    threads: int
    why: str


@dataclass(frozen=True, kw_only=True)
class CauseInfo:
    """Why something does not run: a code, a sentence, the last lines of its stderr, one next command."""

    code: str
    message: str
    stderr: list[str]
    next_step: str


@dataclass(frozen=True, kw_only=True)
class ReplicaInfo:
    """A row of `openmaas ps`. `state` as in contracts.ReplicaState; `memory` resident bytes; `since` Unix seconds."""

    id: str
    deployment: str
    version: int
    pid: int | None
    state: str
    restarts: int
    memory: int
    since: float
    cause: CauseInfo | None


@dataclass(frozen=True, kw_only=True)
class DeploymentInfo:
    """A deployment as it stands.

    state: starting (nothing serves yet), ready, updating (the old revision serves while the new one starts), failed (the
    last revision did not come up; `serving` says whether an older one still answers), stopped.
    version and serving: version numbers of the newest revision and of the one that answers.
    engine: of the revision whose replicas are counted; None until one is chosen. measuring: the job that this waits for.
    """

    name: str
    project: str
    model: str
    state: Literal["starting", "ready", "updating", "failed", "stopped"]
    revision: int
    version: int
    serving: int | None
    replicas: int
    ready: int
    options: dict[str, Any]
    cause: CauseInfo | None
    updated_at: float
    actor: str
    engine: EngineInfo | None = None
    measuring: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeploymentMove:
    """One row of a deployment's history. `action` is deploy, rollback or undeploy; `state` what became of it."""

    deployment: str
    revision: int
    model: str
    version: int
    action: Literal["deploy", "rollback", "undeploy"]
    state: Literal["starting", "ready", "failed", "superseded", "stopped"]
    cause: CauseInfo | None
    actor: str
    at: float


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


JobState = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Begin a job. `arguments` are those of its kind (openmaas.core.jobs)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """A job as it stands.

    subject: the version that it is about, digits:3, or empty. attempt: counts from 1, one more with each retry.
    stage, done, total: what it does and how far it is; total 0 where that cannot be said. result: of one that succeeded,
    None in a list where it has more than 16 KiB. cause: of one that failed. measures: runs alone, so that its figures are not
    disturbed. pid: while its process runs.
    """

    id: str
    project: str
    kind: str
    subject: str
    arguments: dict[str, Any]
    state: JobState
    attempt: int
    stage: str
    done: float
    total: float
    result: dict[str, Any] | None
    cause: CauseInfo | None
    measures: bool
    actor: str
    pid: int | None
    created_at: float
    started_at: float | None
    ended_at: float | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a job's own process tells: how far it is, and once its result or the cause of its failure, which ends it."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    stage: str = ""
    done: float = 0.0
    total: float = 0.0
    result: dict[str, Any] | None = None
    cause: CauseInfo | None = None


# ── evaluations ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class EvaluationInfo:
    """A version on a dataset: both exact references. value: of the metric.

    evaluation: openmaas.core.evaluations.Evaluation as JSON, without the outcomes of single rows.
    """

    id: int
    version: str
    dataset: str
    metric: str
    value: float
    evaluation: dict[str, Any]
    job: str
    actor: str
    at: float


# ── gates and lineage ────────────────────────────────────────────────────────────────────────────────────────────────


GateTarget = Literal["alias", "deployment"]


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """When an alias or a deployment may move: as openmaas.core.evaluations.Rules, whose metric is chosen where it is empty.

    data, baseline: references. Left empty, they are the present gate's; where there is none, the dataset of the newest
    evaluation of a version of the model, and the version that the alias or the deployment stands at, or the newest.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    data: str = ""
    baseline: str = ""
    metric: str = ""
    max_loss: float | None = None
    minimum: float | None = None
    max_p99: float | None = None
    max_size: int | None = None
    max_cost: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateInfo:
    """A gate. rules: openmaas.core.evaluations.Rules as JSON. notes: what was chosen when it was set, and why."""

    model: str
    target: GateTarget
    name: str
    rules: dict[str, Any]
    actor: str
    at: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """A version held against a gate, without a move. checks: openmaas.core.evaluations.Check of each rule as JSON."""

    gate: GateInfo
    version: str
    passed: bool
    checks: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GateTrial:
    """Hold the model's version with this number against a gate. engine: that would serve it; empty is the evaluated one."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT
    number: int
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """What a gate decided of one wish to move, with its evidence. `forced` by the actor, for the reason."""

    id: int
    model: str
    target: GateTarget
    name: str
    number: int
    previous: int | None
    outcome: Literal["passed", "refused", "forced"]
    rules: dict[str, Any]
    checks: list[dict[str, Any]]
    reason: str
    actor: str
    at: float


@dataclass(frozen=True, kw_only=True)
class LineageLink:
    """A version that another was made with besides its parent. role: teacher, student, merged or base."""

    role: str
    version: str
    deleted: bool


@dataclass(frozen=True, kw_only=True)
class LineageNode:
    """A version in the tree of those that were made of each other.

    recipe: short; details: all that is kept of how it was made, as JSON. quality: of its newest evaluation: metric, value,
    low, high, dataset, job and at. loss: of quality to its baseline, as openmaas.core.evaluations.Estimate.
    """

    version: str
    number: int
    digest: str
    format: str
    size: int
    deleted: bool
    aliases: list[str]
    created_at: float
    created_by: str
    parent: str | None = None
    recipe: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    links: list[LineageLink] = field(default_factory=list)
    quality: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    baseline: str = ""
    dominated: bool = False


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A version's ancestors and descendants, parents before children. complete: False where there are more than were told."""

    version: str
    nodes: list[LineageNode]
    complete: bool = True


# ── the server itself ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    name: str
    state: str
    pid: int | None
    restarts: int
    memory: int
    url: str | None


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """`openmaas status`. supervised: whether control has heard from the supervisor within the last seconds.

    deployments and jobs: how many are in which state; jobs only those that have not ended.
    """

    version: str
    control_url: str
    gateway_url: str
    home: str
    database: str
    supervised: bool
    processes: list[ProcessInfo]
    deployments: dict[str, int]
    jobs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of `openmaas doctor`."""

    check: str
    ok: bool
    message: str
    next_step: str | None = None
