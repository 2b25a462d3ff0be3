"""What one revision of a deployment asks for: its options, its replicas' ids, and what became of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from openmaas.core.contracts import Cause, ReplicaStatus
from openmaas.core.errors import InvalidInput
from openmaas.core.generation import WEIGHTS
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import CauseInfo, DeployRequest

_MIB: Final = 2**20
_ENGINE = re.compile(r"[A-Za-z0-9_.-]{1,40}(:[A-Za-z0-9_.-]{1,40}){0,4}", re.ASCII)
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "replicas": (1, 64),
    "memory": (32 * _MIB, 16 * 2**40),
    "threads": (0, 1024),
    "max_batch": (1, 1024),
    "max_queue": (1, 65536),
    "max_wait": (0.0, 10.0),
    "timeout": (0.001, 3600.0),
    "max_tokens": (0, 2**30),
}
"""Least and most of each option; memory in bytes, max_wait and timeout in seconds."""
_DEFAULTS: Final[dict[str, float]] = {"max_batch": 32, "max_queue": 1024, "timeout": 60.0}
_GENERATION: Final[dict[str, float]] = {"max_batch": 16, "max_queue": 128, "timeout": 600.0}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a revision runs. Kept as JSON with the revision, so that a rollback brings them back too.

    force, reason: whether the deployment's gate was overruled, and why.
    """

    replicas: int = 1
    memory: int | None = None
    threads: int = 0
    max_batch: int = 32
    max_queue: int = 1024
    max_wait: float = 0.0
    timeout: float = 60.0
    max_tokens: int = 0
    engine: str = "auto"
    weights: str = "auto"
    force: bool = False
    reason: str = ""

    @property
    def as_dict(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def options_of(request: DeployRequest, *, generates: bool = False) -> Options:
    """The request's options, with defaults for what it leaves open. generates: whether the version generates text.

    Raises InvalidInput that names the option, its value and its bounds.
    """
    defaults = _GENERATION if generates else _DEFAULTS
    asked = {name: getattr(request, name) for name in BOUNDS}
    values: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in asked.items()}
    for name, (least, most) in BOUNDS.items():
        value = values[name]
        if value is not None and not least <= value <= most:  # not a number is outside too
            raise InvalidInput(
                f"{name} is {value}; it must be from {least} to {most}.",
                code="invalid_option",
                next_step=f"Give a {name} within these bounds.",
            )
    return Options(
        **values,
        engine=check_engine(request.engine),
        weights=check_weights(request.weights, generates=generates),
        force=request.force,
        reason=request.reason,
    )


def check_weights(weights: str, *, generates: bool) -> str:
    """The weights themselves. Raises InvalidInput for what there is not, or not for a version that generates no text."""
    if weights not in WEIGHTS:
        raise InvalidInput(
            f"weights is {weights[:40]!r}; it must be one of {', '.join(WEIGHTS)}.",
            code="invalid_option",
            next_step="Give one of these.",
        )
    if not generates and weights not in ("auto", "source"):
        raise InvalidInput(
            f"weights is {weights!r}, which can be chosen for versions that generate text only.",
            code="invalid_option",
            next_step="Leave out --weights; --engine chooses an engine and its precision.",
        )
    return weights


def check_engine(name: str) -> str:
    """The name itself. Raises InvalidInput for what cannot be an engine's."""
    if _ENGINE.fullmatch(name) is None:
        raise InvalidInput(
            f"engine is {name[:60]!r}, which is not an engine's name.",
            code="invalid_option",
            next_step="Give auto, or a name such as onnxruntime or openvino:bf16.",
        )
    return name


def decode_options(text: str) -> Options:
    return msgspec.json.decode(text, type=Options)


def replica_ids(project: str, deployment: str, revision: int, replicas: int) -> list[str]:
    """Unique for ever: a revision's number is never used twice."""
    prefix = "" if project == DEFAULT_PROJECT else f"{project}~"  # a character that no name holds
    return [f"{prefix}{deployment}-{revision}-{index}" for index in range(replicas)]


def all_ready(ids: list[str], seen: Mapping[str, ReplicaStatus]) -> bool:
    return all(name in seen and seen[name].state == "ready" for name in ids)


def count_ready(ids: list[str], seen: Mapping[str, ReplicaStatus]) -> int:
    return sum(name in seen and seen[name].state == "ready" for name in ids)


def failure(ids: list[str], seen: Mapping[str, ReplicaStatus]) -> Cause | None:
    """Why a replica of these stays down; None while none does."""
    for name in ids:
        status = seen.get(name)
        if status is not None and status.state == "failed":
            return status.cause or Cause(code="failed", message=f"Replica {name} stays down.")
    return None


def cause_info(cause: Cause | None) -> CauseInfo | None:
    if cause is None:
        return None
    return CauseInfo(code=cause.code, message=cause.message, stderr=list(cause.stderr), next_step=cause.next_step)


def decode_cause(text: str | None) -> Cause | None:
    return msgspec.json.decode(text, type=Cause) if text else None
