"""Every error that OpenMaaS raises on purpose.

    OpenMaaSError                 500  internal
    ├── InvalidInput              400  invalid_input
    ├── Unauthenticated           401  unauthenticated
    ├── Forbidden                 403  forbidden
    ├── NotFound                  404  not_found
    ├── RequestTimeout            408  request_timeout        the body did not arrive in time
    ├── Conflict                  409  conflict
    ├── TooLarge                  413  too_large
    ├── UnsupportedMedia          415  unsupported_media      a kind of body that this model does not take
    ├── Refused                   422  refused                understood, and not accepted: a pickle, a wrong digest
    ├── LimitReached              429  limit_reached          the caller's own limit
    ├── Cancelled                 499  cancelled              the caller left
    ├── EngineFailed              500  engine_failed
    ├── Unavailable               503  unavailable            capacity, or nothing is running
    │   └── LinkLost              503  replica_lost           the connection broke; the work may have been done
    ├── DeadlineExceeded          504  deadline_exceeded
    └── StorageFull               507  storage_full

An error names its cause (`message`, with the value, the limit and the setting) and one next step. `status` is the HTTP status
that each door of ours answers with; other protocols map from `code`. Foreign errors are wrapped where they enter.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec


class WireError(msgspec.Struct, omit_defaults=True):
    """An error as it travels: over the link as msgpack, over HTTP as JSON (`error` is the message, as clients expect).

    param: name of the request's parameter that it is about, where there is one."""

    error: str
    code: str = "internal"
    status: int = 500
    next_step: str | None = None
    retry_after: float | None = None
    request_id: str | None = None
    param: str | None = None


class OpenMaaSError(Exception):
    """Something went wrong inside OpenMaaS."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        next_step: str | None = None,
        retry_after: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.next_step = next_step
        self.retry_after = retry_after
        self.param = param
        self.request_id: str | None = None

    def to_wire(self, request_id: str | None = None) -> WireError:
        return WireError(
            error=self.message,
            code=self.code,
            status=self.status,
            next_step=self.next_step,
            retry_after=self.retry_after,
            request_id=request_id or self.request_id,
            param=self.param,
        )

    @staticmethod
    def from_wire(wire: WireError) -> OpenMaaSError:
        """The error of the tree that belongs to the wire form's status (and to its code, where one status has two classes)."""
        matches = [kind for kind in _TREE if kind.status == wire.status]
        kind = next((k for k in matches if k.default_code == wire.code), matches[0] if matches else OpenMaaSError)
        error = kind(wire.error, code=wire.code, next_step=wire.next_step, retry_after=wire.retry_after, param=wire.param)
        error.request_id = wire.request_id
        return error

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}" if self.next_step else self.message


class InvalidInput(OpenMaaSError):
    """What was sent is malformed or does not fit what was declared."""

    status, default_code = 400, "invalid_input"


class Unauthenticated(OpenMaaSError):
    """No credential, or one that is not known."""

    status, default_code = 401, "unauthenticated"


class Forbidden(OpenMaaSError):
    """The credential is known and does not allow this."""

    status, default_code = 403, "forbidden"


class NotFound(OpenMaaSError):
    """No such model, version, alias, deployment or route."""

    status, default_code = 404, "not_found"


class RequestTimeout(OpenMaaSError):
    """The request's body did not arrive in time."""

    status, default_code = 408, "request_timeout"


class Conflict(OpenMaaSError):
    """It exists already, or its state does not allow this now."""

    status, default_code = 409, "conflict"


class TooLarge(OpenMaaSError):
    """Larger than a limit."""

    status, default_code = 413, "too_large"


class UnsupportedMedia(OpenMaaSError):
    """A kind of body that this model does not take."""

    status, default_code = 415, "unsupported_media"


class Refused(OpenMaaSError):
    """Understood, and not accepted."""

    status, default_code = 422, "refused"


class LimitReached(OpenMaaSError):
    """The caller's own limit is reached."""

    status, default_code = 429, "limit_reached"


class Cancelled(OpenMaaSError):
    """The caller left before the answer."""

    status, default_code = 499, "cancelled"


class EngineFailed(OpenMaaSError):
    """The engine could not run this input."""

    status, default_code = 500, "engine_failed"


class Unavailable(OpenMaaSError):
    """No capacity, or nothing that could answer is running."""

    status, default_code = 503, "unavailable"


class LinkLost(Unavailable):
    """The connection to a replica broke before the answer."""

    default_code = "replica_lost"


class DeadlineExceeded(OpenMaaSError):
    """The time that the request had is over."""

    status, default_code = 504, "deadline_exceeded"


class StorageFull(OpenMaaSError):
    """The disk (or bucket) takes no more."""

    status, default_code = 507, "storage_full"


# Of two with one status, the one that gives codes of its own comes first.
_TREE: tuple[type[OpenMaaSError], ...] = (
    InvalidInput, Unauthenticated, Forbidden, NotFound, RequestTimeout, Conflict, TooLarge, UnsupportedMedia, Refused,
    LimitReached, Cancelled, EngineFailed, OpenMaaSError, Unavailable, LinkLost, DeadlineExceeded, StorageFull,
)  # fmt: skip


def http_body(wire: WireError) -> dict[str, Any]:
    """The JSON object that a door answers with: `error` is the text that Open Inference Protocol clients show."""
    body = {"error": wire.error, "code": wire.code, "next_step": wire.next_step, "request_id": wire.request_id}
    return {key: value for key, value in body.items() if value is not None}


_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\",;:()\[\]]+/)+")


def without_paths(text: str) -> str:
    """A library's message with absolute paths cut to their last part: an error never tells where things lie."""
    return _FOLDERS.sub("", text)
