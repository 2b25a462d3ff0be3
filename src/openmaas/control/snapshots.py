"""What the other processes are told: Snapshot for the gateways, Desired for the supervisor, pushed as soon as they change.

Both are built from the database (and, for addresses, from what runs), and each version of them is a number of a stored counter,
so that versions only grow, also across restarts of control.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from openmaas.control.job_rows import job_specs
from openmaas.control.keys import JOB, good_keys
from openmaas.control.observed import Fleet
from openmaas.control.resolution import decode_resolution
from openmaas.control.revisions import decode_options, replica_ids
from openmaas.core.contracts import Deployment, Desired, JobSpec, Replica, ReplicaSpec, ReplicaStatus, Snapshot, encode
from openmaas.core.log import get_logger
from openmaas.core.manifest import Manifest
from openmaas.store.database import Database, next_value
from openmaas.store.tables import AliasRow, DeploymentRevisionRow, DeploymentRow, ModelRow, VersionRow

_log = get_logger("snapshots")


# ── from rows to documents ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Running:
    """A revision whose replicas should run."""

    deployment: DeploymentRow
    revision: DeploymentRevisionRow
    version: VersionRow

    @property
    def serves(self) -> bool:
        return self.revision.revision == self.deployment.serving

    @property
    def ids(self) -> list[str]:
        row = self.revision
        return replica_ids(row.project, self.deployment.name, row.revision, decode_options(row.options).replicas)


def running_revisions(session: Session) -> list[Running]:
    """The serving revision of each deployment, and the one that is starting, unless it waits for the choice of its engine."""
    rows = session.execute(
        select(DeploymentRow, DeploymentRevisionRow, VersionRow)
        .join(DeploymentRevisionRow, DeploymentRevisionRow.deployment_id == DeploymentRow.id)
        .join(VersionRow, VersionRow.id == DeploymentRevisionRow.version_id)
        .where(or_(DeploymentRevisionRow.revision == DeploymentRow.serving, DeploymentRevisionRow.state == "starting"))
        .where(DeploymentRevisionRow.measuring.is_(None))
        .order_by(DeploymentRow.name, DeploymentRevisionRow.revision)
    )
    return [Running(*row) for row in rows]


def build_desired(running: Iterable[Running], jobs: tuple[JobSpec, ...] = ()) -> Desired:
    """All replicas and jobs that should run; its version is still 0."""
    return Desired(version=0, replicas=tuple(spec for one in running for spec in _specs(one)), jobs=jobs)


def _specs(running: Running) -> list[ReplicaSpec]:
    deployment, revision, version = running.deployment, running.revision, running.version
    options, chosen = decode_options(revision.options), decode_resolution(revision.engine)
    return [
        ReplicaSpec(
            id=name,
            deployment=deployment.name,
            revision=revision.revision,
            project=revision.project,
            model=revision.model,
            version=revision.number,
            digest=version.digest,
            manifest=_manifest(version.manifest),
            memory=options.memory,
            threads=options.threads,
            max_batch=options.max_batch,
            max_queue=options.max_queue,
            max_wait=options.max_wait,
            timeout=options.timeout,
            max_tokens=options.max_tokens,
            choice=chosen.choice if chosen is not None else None,
        )
        for name in running.ids
    ]


@lru_cache(maxsize=1024)
def _manifest(text: str) -> Manifest:
    return msgspec.json.decode(text, type=Manifest)


def build_snapshot(session: Session, running: Iterable[Running], seen: Mapping[str, ReplicaStatus]) -> Snapshot:
    """All that gateways know; its version is still 0."""
    by_name: dict[str, list[Running]] = {}
    for one in running:
        by_name.setdefault(one.deployment.name, []).append(one)
    deployments = tuple(_deployment(session, revisions, seen) for revisions in by_name.values())
    keys = tuple(key for key in good_keys(session) if key.role != JOB)  # a job has nothing to ask of a gateway
    return Snapshot(version=0, deployments=deployments, keys=keys)


def _deployment(session: Session, revisions: list[Running], seen: Mapping[str, ReplicaStatus]) -> Deployment:
    row = revisions[0].deployment
    serving = next((one for one in revisions if one.serves), None)
    traffic = {serving.revision.number: 1.0} if serving is not None else {}
    return Deployment(
        name=row.name,
        project=row.project,
        model=row.model,
        traffic=traffic,
        aliases=_aliases(session, row, set(traffic)),
        replicas=tuple(replica for one in revisions if _visible(one, serving) for replica in _replicas(one, seen)),
        timeout=decode_options((serving or revisions[-1]).revision.options).timeout,
        created=row.created_at,
    )


def _visible(one: Running, serving: Running | None) -> bool:
    """Gateways connect to a revision before it serves, but not where its number would get it the serving one's requests."""
    return one is serving or serving is None or one.revision.number != serving.revision.number


def _replicas(running: Running, seen: Mapping[str, ReplicaStatus]) -> list[Replica]:
    return [
        Replica(id=name, version=running.revision.number, address=seen[name].address) for name in running.ids if name in seen
    ]


def _aliases(session: Session, deployment: DeploymentRow, numbers: set[int]) -> dict[str, int]:
    rows = session.execute(
        select(AliasRow.alias, AliasRow.number)
        .join(ModelRow, ModelRow.id == AliasRow.model_id)
        .where(ModelRow.project == deployment.project, ModelRow.name == deployment.model, AliasRow.number.in_(numbers))
        .order_by(AliasRow.alias)
    )
    return {alias: number for alias, number in rows}  # noqa: C416  # a Row is no pair to the types


# ── to those who watch ───────────────────────────────────────────────────────────────────────────────────────────────


class Channel:
    """The newest document of one kind, for any number of watchers on the event loop. A slow watcher skips what is outdated."""

    def __init__(self) -> None:
        self._document: bytes | None = None
        self._news = asyncio.Event()

    def put(self, document: bytes) -> None:
        """On the event loop."""
        self._document = document
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self) -> AsyncIterator[bytes]:
        """The newest document at once (as soon as there is one), then each newer one."""
        last = None
        while True:
            news = self._news
            if self._document is last:
                await news.wait()
            else:
                last = self._document
                assert last is not None
                yield last


class Hub:
    """Builds and publishes both documents. `publish` may be called from any thread, after the commit of what has changed.

    A Snapshot is published only after the supervisor has told what runs: one without addresses would take every replica out
    of the gateways' rotation.
    """

    def __init__(self, database: Database, fleet: Fleet, loop: asyncio.AbstractEventLoop) -> None:
        self.snapshots = Channel()
        self.desired = Channel()
        self.outdated = False
        self._database = database
        self._fleet = fleet
        self._loop = loop
        self._lock = threading.Lock()
        self._last_snapshot: Snapshot | None = None
        self._last_desired: Desired | None = None

    def publish(self) -> None:
        """Build both documents and push those that differ from the last. Where that fails, the next report of the supervisor
        (at most 2 s later) tries again."""
        self.outdated = True
        with self._lock:
            try:
                self._publish()
            except Exception:
                _log.exception("not published")
                return
            self.outdated = False

    def _publish(self) -> None:
        with self._database.read() as session:
            running = running_revisions(session)
            desired = build_desired(running, job_specs(session, self._fleet.job_keys))
            snapshot = build_snapshot(session, running, self._fleet.replicas) if self._fleet.heard else None
        news: list[tuple[str, Channel, Desired | Snapshot]] = []
        if desired != self._last_desired:
            news.append(("desired", self.desired, desired))
        if snapshot is not None and snapshot != self._last_snapshot:
            news.append(("snapshot", self.snapshots, snapshot))
        for channel, document in self._numbered(news):
            if isinstance(document, Desired):
                self._fleet.desired = document.version
            self._loop.call_soon_threadsafe(channel.put, encode(document))
        self._last_desired, self._last_snapshot = desired, snapshot
        if snapshot is not None:
            self._fleet.routed = {
                (one.revision.project, one.deployment.name): one.revision.revision for one in running if one.serves
            }

    def _numbered(self, news: list[tuple[str, Channel, Desired | Snapshot]]) -> list[tuple[Channel, Desired | Snapshot]]:
        if not news:
            return []
        with self._database.write() as session:
            return [
                (channel, msgspec.structs.replace(document, version=next_value(session, counter)))
                for counter, channel, document in news
            ]
