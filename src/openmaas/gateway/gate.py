"""Who asks, may they, and is there room: a permit or a refusal, at once. The only place where the gateway decides this."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from openmaas.core.contracts import Key
from openmaas.core.errors import Forbidden, TooLarge, Unauthenticated, Unavailable
from openmaas.core.keys import looks_like_key

_ADMIN = "admin"
_HOW = "Send the header 'Authorization: Bearer KEY' (or 'X-API-Key: KEY')."


class Gate:
    """Admission of one gateway. The keys come with each snapshot; a revoked one is gone with the next.

    max_body, max_in_flight_bytes: bytes. max_in_flight: requests.
    """

    def __init__(self, *, max_body: int, max_in_flight: int, max_in_flight_bytes: int) -> None:
        self._keys: dict[str, Key] = {}
        self._max_body = max_body
        self._max_in_flight = max_in_flight
        self._max_bytes = max_in_flight_bytes
        self.in_flight = 0
        self.in_flight_bytes = 0

    def update(self, keys: Iterable[Key]) -> None:
        self._keys = {key.digest: key for key in keys}

    def authenticate(self, authorization: str | None, api_key: str | None) -> Key:
        """The key that a request carries. Raises Unauthenticated."""
        text = api_key
        if authorization is not None:
            scheme, _, text = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated("The Authorization header is not of the Bearer scheme.", next_step=_HOW)
            text = text.strip()
        if not text:
            raise Unauthenticated("The request carries no API key.", next_step=_HOW)
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        key = self._keys.get(digest)
        # The look-up is by digest, so its time says nothing of the key; the comparison makes that plain.
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise Unauthenticated(
                _why_unknown(text), code="unknown_key", next_step="See $OPENMAAS_HOME/admin.key on the server."
            )
        return key

    def may_use(self, key: Key, project: str) -> bool:
        """Whether things of this project are there for the key."""
        return key.role == _ADMIN or key.project == project

    def authorize(self, key: Key, project: str) -> None:
        """Raises Forbidden where the key may not use things of this project."""
        if not self.may_use(key, project):
            raise Forbidden(f"The key belongs to project {key.project!r}.", code="wrong_project")

    def authorize_operator(self, key: Key) -> None:
        """Raises Forbidden where the key may not see the server as a whole."""
        if key.role != _ADMIN:
            raise Forbidden(f"A key with the role {key.role!r} may not do this.", code="role_forbidden")

    def enter(self, size: int) -> None:
        """Take a place for a request with a body of `size` bytes. Raises TooLarge or Unavailable; `leave` gives it back."""
        if size > self._max_body:
            raise TooLarge(
                f"The body has {size} bytes, the limit is {self._max_body}.",
                code="body_too_large",
                next_step="Send fewer rows a request, or raise OPENMAAS_MAX_BODY.",
            )
        if self.in_flight >= self._max_in_flight or self.in_flight_bytes + size > self._max_bytes:
            raise self._full()
        self.in_flight += 1
        self.in_flight_bytes += size

    def grow(self, size: int) -> None:
        """So many more bytes of a body whose size was not announced. Raises Unavailable."""
        if self.in_flight_bytes + size > self._max_bytes:
            raise self._full()
        self.in_flight_bytes += size

    def leave(self, size: int) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= size

    def _full(self) -> Unavailable:
        return Unavailable(
            f"The gateway holds {self.in_flight} requests with {self.in_flight_bytes} bytes; the limits are "
            f"{self._max_in_flight} and {self._max_bytes} (OPENMAAS_MAX_IN_FLIGHT, OPENMAAS_MAX_IN_FLIGHT_BYTES).",
            code="gateway_full",
            retry_after=1.0,
        )


def _why_unknown(text: str) -> str:
    return (
        "The API key is not known here." if looks_like_key(text) else "The API key is mistyped: its form or checksum is wrong."
    )
