"""Ask a deployment for answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.client.answers import check, decode
from openmaas.client.driver import Session, operation
from openmaas.client.steps import Operation, Request, Response, Sleep
from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.types import Signature

if TYPE_CHECKING:
    from openmaas.client.tensors import Data, Tensor

_MAX_WAIT = 5.0  # seconds; a server that asks for more is told on to the caller
_MARGIN = 5.0  # seconds that the answer may travel beyond the request's own deadline


class Predictions(Session):
    @operation
    def predict(
        self, deployment: str, data: Data, *, version: int | str | None = None, timeout: float | None = None
    ) -> Operation[dict[str, Tensor]]:
        """The deployment's answer: one numpy array per declared output, by name, in the declared order.

        data: for a model with one input its values, as an array or nested lists of shape (rows, …); with several inputs a
        mapping of names to values. One axis less than declared is one row. Values are converted to the declared types;
        rounding to a shorter float is accepted, a lost fraction or an overflow is not.
        version: one that the deployment serves, by number or alias; its traffic split decides without.
        timeout: seconds for the whole request; the deployment's own without. BYTES outputs are arrays of `bytes` objects.

        A 503 that says when to come back is tried once more, within the timeout.
        Raises InvalidInput (names, types or shapes that do not fit), NotFound, Unauthenticated, LimitReached, Unavailable
        (nothing is ready, or the queue is full), DeadlineExceeded and EngineFailed.
        """
        key = (deployment, "" if version is None else str(version))
        known = self._signatures.get(key)
        signature = known or (yield from self._signature(key))
        try:
            return (yield from _infer(key, data, signature, timeout))
        except InvalidInput:
            # Another version with other inputs may have been deployed since we asked.
            if known is None or (fresh := (yield from self._signature(key))) == known:
                raise
            return (yield from _infer(key, data, fresh, timeout))

    @operation
    def predict_raw(
        self,
        deployment: str,
        body: bytes,
        content_type: str = "application/json",
        *,
        top: int | None = None,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Operation[dict[str, Any]]:
        """The deployment's answer to a body as it is: {"model", "version", "predictions": [an object a row], "notes": […]}.

        body and content_type: an encoded image (image/png …), a text (text/plain), a table (text/csv), a form
        (multipart/form-data with its boundary), or JSON: a text or texts, a record or records by column, nested lists, each
        also under "instances". top: how many classes each row names, where the model names any. version and timeout as in
        `predict`; notes tell what was done to single rows, such as a text that was cut.

        Raises what `predict` raises, and UnsupportedMedia with what the model takes.
        """
        headers = {"content-type": content_type} | _time_limit(timeout)
        query = {"version": "" if version is None else str(version), "top": top}
        response = yield from _send(_request(("predict", deployment), headers, body, timeout, query), timeout)
        return decode(response, dict[str, Any])

    @operation
    def signature(self, deployment: str, *, version: int | str | None = None) -> Operation[Signature]:
        """Names, types and shapes of a deployment's inputs and outputs; -1 is a dynamic axis. Raises NotFound, Unavailable."""
        return (yield from self._signature((deployment, "" if version is None else str(version))))

    @operation
    def statistics(self) -> Operation[list[dict[str, Any]]]:
        """Counts and times of each deployed version, in the words of Triton's statistics extension (times in nanoseconds)."""
        response: Response = yield Request("GET", ("v2", "models", "stats"), door="gateway")
        check(response)
        return decode(response, dict[str, list[dict[str, Any]]])["model_stats"]

    def _signature(self, key: tuple[str, str]) -> Operation[Signature]:
        response: Response = yield Request("GET", _parts(key), door="gateway")
        check(response)
        self._signatures[key] = decode(response, Signature)
        return self._signatures[key]


def _parts(key: tuple[str, str]) -> tuple[str, ...]:
    deployment, version = key
    return ("v2", "models", deployment, *(("versions", version) if version else ()))


def _infer(key: tuple[str, str], data: Data, signature: Signature, timeout: float | None) -> Operation[dict[str, Tensor]]:
    from openmaas.client.tensors import as_inputs, decode_answer, encode_request

    body, json_size = encode_request(as_inputs(data, signature), signature)
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(json_size)}
    request = _request((*_parts(key), "infer"), headers | _time_limit(timeout), body, timeout)
    response = yield from _send(request, timeout)
    return decode_answer(response.body, int(response.headers.get("inference-header-content-length", -1)))


def _time_limit(timeout: float | None) -> dict[str, str]:
    return {} if timeout is None else {"x-request-timeout": f"{timeout:.6f}"}


def _request(
    parts: tuple[str, ...],
    headers: Mapping[str, str],
    body: bytes,
    timeout: float | None,
    query: Mapping[str, Any] | None = None,
) -> Request:
    seconds = 3600.0 if timeout is None else timeout + _MARGIN
    return Request("POST", parts, query or {}, door="gateway", headers=headers, body=body, timeout=seconds)


def _send(request: Request, timeout: float | None) -> Operation[Response]:
    response: Response = yield request
    try:
        check(response)
    except Unavailable as error:
        wait = error.retry_after
        if wait is None or wait > min(_MAX_WAIT, _MAX_WAIT if timeout is None else timeout):
            raise
        yield Sleep(wait)
        response = yield request
        check(response)
    return response


def decode_signature(manifest: dict[str, Any]) -> Signature:
    """The signature in a version's manifest."""
    return msgspec.convert(manifest["signature"], Signature)
