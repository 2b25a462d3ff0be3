"""What an operation asks of the outside, one step at a time.

An operation is a generator: it yields steps and is sent their results, so it holds all the logic and does no waiting of its
own. A driver (driver.py) performs the steps, blocking or on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

T = TypeVar("T")
Door = Literal["control", "gateway"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `parts` are path segments, percent-encoded here; `timeout` in seconds.

    sink: takes the body of a good answer piece by piece, for what is too large to hold.
    """

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, Any] = field(default_factory=dict)
    door: Door = "control"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float = 60.0
    sink: Callable[[bytes], object] | None = None

    @property
    def target(self) -> str:
        path = "/".join(quote(part, safe=":") for part in self.parts)
        given = {name: value for name, value in self.query.items() if value not in (None, "")}
        return f"/{path}?{urlencode(given)}" if given else f"/{path}"


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Something that blocks and is not HTTP: reading and hashing files, exporting a model."""

    call: Callable[[], Any]


Step: TypeAlias = Request | Sleep | Work
Operation: TypeAlias = Generator[Step, Any, T]
