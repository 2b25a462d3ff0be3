"""What runs: deployments, their replicas and logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Sleep
from openmaas.core.errors import DeadlineExceeded, EngineFailed
from openmaas.core.names import check_name, parse_reference
from openmaas.core.resources import CauseInfo, DeploymentInfo, DeploymentMove, DeployRequest, Page, ReplicaInfo

_FIRST_PAUSE = 0.05  # seconds between two looks at a deployment, growing to …
_LAST_PAUSE = 0.5


class DeployFailed(EngineFailed):
    """A version did not come up. `deployment` says whether an older one serves; `cause` holds the last lines of stderr."""

    def __init__(self, deployment: DeploymentInfo) -> None:
        self.deployment = deployment
        self.cause = deployment.cause or CauseInfo(code="deploy_failed", message="No cause was told.", stderr=[], next_step="")
        still = "" if deployment.serving is None else f" Version {deployment.serving} goes on serving."
        super().__init__(
            f"{deployment.model}:{deployment.version} did not come up as {deployment.name!r}: {self.cause.message}{still}",
            code=self.cause.code,
            next_step=self.cause.next_step or f"Read `openmaas logs {deployment.name}`.",
        )


@dataclass(frozen=True, kw_only=True)
class Logs:
    """Lines of a deployment's replicas; `offset` asks for what comes after them."""

    lines: list[str]
    offset: int


class Deployments(Session):
    @operation
    def deploy(
        self,
        version: str,
        *,
        name: str | None = None,
        replicas: int = 1,
        memory: int | None = None,
        threads: int = 0,
        max_batch: int | None = None,
        max_queue: int | None = None,
        max_wait: float = 0.0,
        max_tokens: int = 0,
        engine: str = "auto",
        weights: str = "auto",
        force: bool = False,
        reason: str = "",
        request_timeout: float | None = None,
        wait: bool = True,
        timeout: float = 600.0,
        watch: Callable[[DeploymentInfo], object] | None = None,
    ) -> Operation[DeploymentInfo]:
        """Serve a version under a public name; another version under the same name takes over once it is ready.

        version: `digits`, `digits:3` or `digits@champion`. name: the model's without. memory: bytes for each replica.
        threads: of the engine, 0 shares the cores. max_batch: rows, 32 without. max_queue: requests, 1024 without. max_wait:
        seconds to wait for batch-mates. max_tokens: of one batch of sequences with its padding, 0 for a default.
        request_timeout: seconds that a request may take, 60 without. engine: `auto` takes the fastest that was measured, and
        waits while that is being found out; a name such as `onnxruntime` or `openvino:bf16` forces one.
        Of a version that generates text, max_batch are sequences that run together, and the three are 16, 128 and 600 without.
        weights: `bf16`, `int8` or `int4` are served by a version that is converted to them, first where there is none; `source`
        serves the files as they are, `auto` what was measured to be the fastest here.
        force: although the deployment's gate refuses, for the reason that is kept with it.
        wait: until all replicas are ready, at most `timeout` seconds; `watch` is told each look at it.

        Raises NotFound, InvalidInput, Refused by the gate, DeployFailed with the cause, and DeadlineExceeded.
        """
        request = DeployRequest(
            version=str(parse_reference(version)),
            name=None if name is None else check_name(name, "deployment"),
            replicas=replicas,
            memory=memory,
            threads=threads,
            max_batch=max_batch,
            max_queue=max_queue,
            max_wait=max_wait,
            max_tokens=max_tokens,
            engine=engine,
            weights=weights,
            force=force,
            reason=reason,
            timeout=request_timeout,
        )
        sending = Request(
            "POST",
            (*API, "deployments"),
            headers={"content-type": "application/json"},
            body=msgspec.json.encode(request),
        )
        info = yield from fetch(sending, DeploymentInfo)
        return (yield from _until_ready(info, timeout, watch)) if wait else info

    @operation
    def rollback(
        self,
        deployment: str,
        *,
        wait: bool = True,
        timeout: float = 600.0,
        watch: Callable[[DeploymentInfo], object] | None = None,
    ) -> Operation[DeploymentInfo]:
        """Serve what the deployment served before, as one more revision. Raises like deploy, and Conflict without a before."""
        info = yield from fetch(Request("POST", (*_parts(deployment), "rollback")), DeploymentInfo)
        return (yield from _until_ready(info, timeout, watch)) if wait else info

    @operation
    def undeploy(self, deployment: str) -> Operation[DeploymentInfo]:
        """Stop a deployment; requests in flight end first. Raises NotFound."""
        return (yield from fetch(Request("DELETE", _parts(deployment)), DeploymentInfo))

    @operation
    def deployment(self, name: str) -> Operation[DeploymentInfo]:
        """A deployment as it stands. Raises NotFound."""
        return (yield from fetch(Request("GET", _parts(name)), DeploymentInfo))

    @listing
    def deployments(self, *, page_size: int | None = None) -> Listing[DeploymentInfo]:
        """All deployments, by name."""
        return Listing(Page[DeploymentInfo], *API, "deployments", page_size=page_size)

    @listing
    def deployment_history(self, deployment: str, *, page_size: int | None = None) -> Listing[DeploymentMove]:
        """Every deploy, rollback and undeploy of a deployment, newest first. Raises NotFound."""
        return Listing(Page[DeploymentMove], *_parts(deployment), "history", page_size=page_size)

    @operation
    def replicas(self) -> Operation[list[ReplicaInfo]]:
        """All replicas: state, process id, restarts, resident memory in bytes."""
        return (yield from fetch(Request("GET", (*API, "replicas")), list[ReplicaInfo]))

    @operation
    def logs(
        self, deployment: str, *, lines: int = 200, replica: str | None = None, offset: int | None = None
    ) -> Operation[Logs]:
        """The last `lines` lines that the replicas wrote, or with `offset` (of the answer before) what came since."""
        query = {"lines": lines, "replica": replica, "offset": offset}
        return (yield from fetch(Request("GET", (*_parts(deployment), "logs"), query), Logs))


def _progress(info: DeploymentInfo) -> str:
    if info.measuring is not None:
        return f"it waits for the job {info.measuring}"
    return f"{info.ready} of {info.replicas} replicas ready"


def _parts(deployment: str) -> tuple[str, ...]:
    return (*API, "deployments", check_name(deployment, "deployment"))


def _until_ready(
    info: DeploymentInfo, timeout: float, watch: Callable[[DeploymentInfo], object] | None
) -> Operation[DeploymentInfo]:
    revision, until, pause = info.revision, time.monotonic() + timeout, _FIRST_PAUSE
    while True:
        if watch is not None:
            watch(info)
        if info.revision != revision or info.state in ("ready", "stopped"):
            return info  # a later deploy or undeploy decides
        if info.state == "failed":
            raise DeployFailed(info)
        if time.monotonic() > until:
            raise DeadlineExceeded(
                f"{info.name!r} is still {info.state} after {timeout:g} s ({_progress(info)}).",
                code="deploy_timeout",
                next_step=f"Look at `openmaas ps` and `openmaas logs {info.name}`; it goes on starting.",
            )
        yield Sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE)
        info = yield from fetch(Request("GET", _parts(info.name)), DeploymentInfo)
