"""Every table. Times are Unix seconds, sizes bytes, digests SHA-256 in lower-case hex, JSON is text.

A row that belongs to a project says so. Rows of history (`alias_moves`, `deployment_revisions`) are added and never removed;
of a revision only `state` and `cause`, what became of it, change. Versions are marked as deleted, so that a number is never
used twice and history keeps naming what it meant.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Compared byte by byte on every database: a listing goes on from a name, and a locale would order names differently.
Name = String(255).with_variant(String(255, collation="C"), "postgresql")
FilePath = String(512).with_variant(String(512, collation="C"), "postgresql")
Digest = String(64)
Identity = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only INTEGER keys by itself


class Base(DeclarativeBase):
    """The tables' common base; its metadata is what the migrations build."""


# ── registry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ModelRow(Base):
    """A registered name. It exists for people while `versions` > 0; the row stays, so that numbering goes on.

    versions counts those that are not deleted; latest, format and size are the newest one's. So a listing reads one table.
    """

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project", "name"), Index("models_listing", "project", "versions", "name"))

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    last_number: Mapped[int] = mapped_column(default=0)
    versions: Mapped[int] = mapped_column(default=0)
    latest: Mapped[int | None]
    format: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)


class VersionRow(Base):
    """A version: immutable but for its free metadata and card."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        Index("versions_digest", "digest"),
        Index("versions_parent", "project", "parent"),
    )

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(Digest)
    format: Mapped[str] = mapped_column(String(64))
    engine: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[str] = mapped_column(Text)
    details: Mapped[str] = mapped_column("metadata", Text)  # the name `metadata` is SQLAlchemy's own on a class
    card: Mapped[str] = mapped_column(Text)
    parent: Mapped[str | None] = mapped_column(String(255))
    recipe: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(Name)
    deleted_at: Mapped[float | None] = mapped_column(Double)


class BlobRow(Base):
    """A blob that a version needs. Shared between versions; what refers to it are the rows of `version_files`."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(Digest, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(Double)


class VersionFileRow(Base):
    """A file of a version that is not deleted: the reference that keeps its blob."""

    __tablename__ = "version_files"
    __table_args__ = (Index("version_files_blob", "sha256", "project"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(FilePath, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    size: Mapped[int] = mapped_column(BigInteger)


class AliasRow(Base):
    """Where an alias stands now; `move_id` is the row of its history that put it there."""

    __tablename__ = "aliases"
    __table_args__ = (Index("aliases_version", "version_id"),)

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(Name, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    number: Mapped[int]
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    move_id: Mapped[int] = mapped_column(ForeignKey("alias_moves.id"))


class AliasMoveRow(Base):
    """One move of an alias. `base` is the move whose state a rollback from here goes back to; None where there was none."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("alias_moves_history", "model_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    alias: Mapped[str] = mapped_column(Name)
    number: Mapped[int | None]
    previous: Mapped[int | None]
    base: Mapped[int | None] = mapped_column(ForeignKey("alias_moves.id"))
    action: Mapped[Literal["set", "rollback", "remove"]] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


# ── uploads, approvals, keys ─────────────────────────────────────────────────────────────────────────────────────────


class UploadRow(Base):
    """An upload in progress. `request` is what the version will get besides its files, as JSON."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(Digest, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    request: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Name)
    created_at: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)


class UploadFileRow(Base):
    """A file of an upload: it keeps the blob of that digest.

    known: a version of the project had it when the upload began, so that it need not be sent. added: the examination made it.
    """

    __tablename__ = "upload_files"
    __table_args__ = (Index("upload_files_blob", "sha256"),)

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(FilePath, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    sha256: Mapped[str] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    known: Mapped[bool] = mapped_column(default=False)
    added: Mapped[bool] = mapped_column(default=False)


class ApprovalRow(Base):
    """An admin's word that a file which runs code when it is loaded may be loaded."""

    __tablename__ = "approvals"

    project: Mapped[str] = mapped_column(Name, primary_key=True)
    sha256: Mapped[str] = mapped_column(Digest, primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


class KeyRow(Base):
    """An API key by its digest. A revoked one stays, so that its id is never given again."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(Name, primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, unique=True)
    role: Mapped[str] = mapped_column(String(32))
    project: Mapped[str] = mapped_column(Name)
    created_at: Mapped[float] = mapped_column(Double)
    revoked_at: Mapped[float | None] = mapped_column(Double)


# ── deployments ──────────────────────────────────────────────────────────────────────────────────────────────────────


class DeploymentRow(Base):
    """A public name. `revision` is its newest revision, `serving` the one that answers (None: nothing does).

    state: as in core.resources.DeploymentInfo. The row stays after an undeploy (state `stopped`), and its history with it.
    """

    __tablename__ = "deployments"
    __table_args__ = (UniqueConstraint("project", "name"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    model: Mapped[str] = mapped_column(Name)
    revision: Mapped[int]
    serving: Mapped[int | None]
    state: Mapped[Literal["starting", "ready", "updating", "failed", "stopped"]] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(Name)
    created_at: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)


class DeploymentRevisionRow(Base):
    """One move of a deployment: deploy, rollback or undeploy. `options`, `engine` and `cause` are JSON.

    engine: what was chosen to run it, and why (control/resolution.py); None while that is open, and for the version's own.
    measuring: id of the job that it waits for before an engine can be chosen.
    base: the revision that a rollback from here goes back to; None where there was none.
    """

    __tablename__ = "deployment_revisions"
    __table_args__ = (UniqueConstraint("deployment_id", "revision"), Index("deployment_revisions_version", "version_id"))

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    deployment_id: Mapped[int] = mapped_column(ForeignKey("deployments.id"))
    project: Mapped[str] = mapped_column(Name)
    revision: Mapped[int]
    model: Mapped[str] = mapped_column(Name)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    number: Mapped[int]
    action: Mapped[Literal["deploy", "rollback", "undeploy"]] = mapped_column(String(16))
    state: Mapped[Literal["starting", "ready", "failed", "superseded", "stopped"]] = mapped_column(String(16))
    options: Mapped[str] = mapped_column(Text)
    engine: Mapped[str | None] = mapped_column(Text)
    measuring: Mapped[str | None] = mapped_column(String(32))
    cause: Mapped[str | None] = mapped_column(Text)
    base: Mapped[int | None]
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class JobRow(Base):
    """Anything long. `arguments`, `result` and `cause` are JSON; its id is made of the number.

    state: as in core.resources.JobInfo. attempt: one more with each retry. starts: one more with each process that is asked
    for, so that the pair of id and starts names one process for ever. version_id: what `subject` names. queued_at: the order.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_state", "state", "queued_at"),
        Index("jobs_listing", "project", "number"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    kind: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    arguments: Mapped[str] = mapped_column(Text)
    state: Mapped[Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=1)
    starts: Mapped[int] = mapped_column(default=0)
    stage: Mapped[str] = mapped_column(String(255), default="")
    done: Mapped[float] = mapped_column(Double, default=0.0)
    total: Mapped[float] = mapped_column(Double, default=0.0)
    result: Mapped[str | None] = mapped_column(Text)
    cause: Mapped[str | None] = mapped_column(Text)
    measures: Mapped[bool]
    actor: Mapped[str] = mapped_column(Name)
    created_at: Mapped[float] = mapped_column(Double)
    queued_at: Mapped[float] = mapped_column(Double)
    started_at: Mapped[float | None] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)


class MeasurementRow(Base):
    """How fast engines ran a version on one kind of processor. Only added to: the newest counts. `result` is JSON."""

    __tablename__ = "measurements"
    __table_args__ = (Index("measurements_version", "project", "digest", "processor", "id"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    digest: Mapped[str] = mapped_column(Digest)
    processor: Mapped[str] = mapped_column(String(255))
    result: Mapped[str] = mapped_column(Text)
    job: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Double)


# ── datasets, evaluations, gates ─────────────────────────────────────────────────────────────────────────────────────


class DatasetRow(Base):
    """A dataset's name. It exists for people while `versions` > 0; the row stays, so that numbering goes on."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project", "name"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    name: Mapped[str] = mapped_column(Name)
    last_number: Mapped[int] = mapped_column(default=0)
    versions: Mapped[int] = mapped_column(default=0)
    latest: Mapped[int | None]
    created_at: Mapped[float] = mapped_column(Double)
    updated_at: Mapped[float] = mapped_column(Double)


class DatasetVersionRow(Base):
    """An immutable version of a dataset. `manifest` is core.datasets.DatasetManifest as JSON; `digest` is its SHA-256.

    deleted_by: who deleted it; deleted_for: the reason, where something named it still.
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"), Index("dataset_versions_digest", "project", "digest"))

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(Digest)
    manifest: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(Double)
    created_by: Mapped[str] = mapped_column(Name)
    deleted_at: Mapped[float | None] = mapped_column(Double)
    deleted_by: Mapped[str | None] = mapped_column(Name)
    deleted_for: Mapped[str | None] = mapped_column(Text)


class DatasetFileRow(Base):
    """A file of a dataset's version that is not deleted: the reference that keeps its blob."""

    __tablename__ = "dataset_files"
    __table_args__ = (Index("dataset_files_blob", "sha256", "project"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(FilePath, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))
    size: Mapped[int] = mapped_column(BigInteger)


class EvaluationRow(Base):
    """A version on a dataset, by their digests. Only added to: the newest counts. `result` is core.evaluations.Evaluation."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("evaluations_version", "project", "digest", "dataset_digest", "id"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    version: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(Digest)
    dataset: Mapped[str] = mapped_column(String(255))
    dataset_digest: Mapped[str] = mapped_column(Digest)
    metric: Mapped[str] = mapped_column(String(64))
    value: Mapped[float] = mapped_column(Double)
    result: Mapped[str] = mapped_column(Text)
    job: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


class VariantRow(Base):
    """What a comparison said of a version beside its parent. Only added to: the newest counts.

    `result` is the entrant of core.evaluations.VersionComparison as JSON; dominated: better than its parent in nothing and
    worse in something.
    """

    __tablename__ = "variants"
    __table_args__ = (Index("variants_version", "project", "digest", "id"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    version: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(Digest)
    baseline: Mapped[str] = mapped_column(String(255))
    dominated: Mapped[bool]
    result: Mapped[str] = mapped_column(Text)
    job: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Double)


class GateRow(Base):
    """The conditions under which an alias or a deployment may move. Only added to: the newest of a target counts.

    target: alias or deployment; name: of it. rules: core.evaluations.Rules as JSON, None where the gate was taken away.
    """

    __tablename__ = "gates"
    __table_args__ = (Index("gates_target", "model_id", "target", "name", "id"),)

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    target: Mapped[Literal["alias", "deployment"]] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Name)
    rules: Mapped[str | None] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


class GateDecisionRow(Base):
    """What a gate decided of one wish to move, and why. Only added to. `checks` is JSON: core.evaluations.Check of each rule.

    outcome: passed, refused, or forced by `actor` although it would have been refused.
    """

    __tablename__ = "gate_decisions"
    __table_args__ = (Index("gate_decisions_history", "model_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Identity, primary_key=True)
    project: Mapped[str] = mapped_column(Name)
    gate_id: Mapped[int] = mapped_column(ForeignKey("gates.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    target: Mapped[Literal["alias", "deployment"]] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Name)
    number: Mapped[int]
    previous: Mapped[int | None]
    outcome: Mapped[Literal["passed", "refused", "forced"]] = mapped_column(String(16))
    rules: Mapped[str] = mapped_column(Text)
    checks: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[float] = mapped_column(Double)


class CounterRow(Base):
    """A number that only grows: the versions of Snapshot and Desired (`snapshot`, `desired`)."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
