"""One request inside a replica: what came, what the engine gets, and the answer in the words of the protocol that asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openmaas.core.contracts import Answer, Call, Timing
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.link import IncomingCall
from openmaas.processing import Prepared
from openmaas.protocols import codings, kserve, oip, plain
from openmaas.replica.batcher import Tensors, Work, engine_error

if TYPE_CHECKING:
    from openmaas.replica.server import ReplicaServer

LARGE = 256 * 1024
"""Bytes from which a body is decoded, or outputs encoded, beside the event loop, so that everybody else is served meanwhile."""
_encode = msgspec.msgpack.Encoder().encode


class Inference(Work):
    """A request on its way through the batcher, and the call that waits for it. Answered as the Open Inference Protocol does.

    raw: rows of texts, images or a table that `prepare` makes the engine's inputs of; None where these came.
    """

    __slots__ = ("call", "head", "prepare_time", "prepared", "raw", "request", "server", "singles")

    def __init__(
        self, server: ReplicaServer, call: IncomingCall, head: Call, request: oip.InferRequest, timeout: float, raw: Any = None
    ) -> None:
        super().__init__(request.inputs, 1, timeout)
        self.server = server
        self.call = call
        self.head = head
        self.request = request
        self.raw = raw
        self.prepared: Prepared | None = None
        self.prepare_time = 0.0
        self.singles: Singles | None = None

    def prepare(self) -> None:
        """Make the engine's inputs. Raises what is wrong with the rows."""
        begun = time.monotonic()
        prepared = self.prepared = self.read(self.raw)
        self.raw = None
        self.inputs = prepared.inputs
        self.key = tuple([array.shape[1:] for array in self.inputs.values()])
        if prepared.lengths:
            self.lengths = prepared.lengths
        if self.server.batchable:
            self.rows = oip.rows_of(self.inputs)
        else:
            self._split()
        self.prepare_time = time.monotonic() - begun

    def read(self, raw: Any) -> Prepared:
        """What the engine gets of the raw rows."""
        return self.server.processor.prepare(raw)

    def _split(self) -> None:
        """Several rows for an engine that takes one at a time go there one after the other."""
        count = len(next(iter(self.inputs.values())))
        if count > 1 and self.server.one_by_one:
            self.singles = Singles(self, count)
        else:
            self.server.check_rows(self.inputs)

    def submit(self) -> None:
        """Into the queue. Raises Unavailable where there is no room."""
        if self.singles is None:
            self.server.batcher.submit(self)
        else:
            self.singles.submit()

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """What must be told of single rows."""
        return () if self.prepared is None else self.prepared.notes

    def cancel(self) -> None:
        """The caller left."""
        if self.singles is None:
            self.server.batcher.cancel(self)
        else:
            self.singles.cancel()

    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        if self.prepare_time:
            timing.prepare = self.prepare_time
            timing.queue = max(0.0, timing.queue - self.prepare_time)
        try:
            if isinstance(result, OpenMaaSError):
                self.fail(result)
            elif sum([array.nbytes for array in result.values()]) < LARGE:
                self.answer(self.encoded(result, timing), timing)
            else:
                self.server.beside(self.call, self.server.answer_large(self, result, timing))
        except Exception as error:
            self.fail(error)

    def answer(self, encoded: tuple[bytes, bytes], timing: Timing) -> None:
        self.call.answer(*encoded)
        self.server.batcher.statistics.answered(timing, time.monotonic() - self.arrived)

    def fail(self, error: Exception) -> None:
        self.call.fail(engine_error(error, "The model's answer cannot be sent"))
        self.server.batcher.statistics.failed(time.monotonic() - self.arrived)

    def encoded(self, outputs: Tensors, timing: Timing) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        response = self.encode(outputs)
        body, coding = response.body, ""
        if self.head.accept_encoding:
            body, coding = codings.compress(body, self.head.accept_encoding)
        content_type = "application/json" if response.json_size < 0 else oip.BINARY_CONTENT_TYPE
        return _encode(Answer(200, content_type, coding, response.json_size, timing)), body

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        if self.server.processor.after is not None:
            finished = self.finished(outputs)
            outputs = finished if self.request.wanted is None else outputs | finished
        return oip.encode_infer(self.head.deployment, self.server.version, self.request, outputs, self.notes)

    def finished(self, outputs: Tensors) -> Tensors:
        """The public outputs."""
        return self.server.processor.finish(outputs, self.inputs, {"top": self.head.top})


class Single(Work):
    """One row of a request with several."""

    __slots__ = ("place", "singles")

    def __init__(self, singles: Singles, place: int, inputs: Tensors, deadline: float) -> None:
        super().__init__(inputs, 1, 0.0)
        self.deadline = deadline
        self.singles = singles
        self.place = place

    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        self.singles.done(self.place, result, timing)


class Singles:
    """The rows of one request, each a work of its own. The first that fails ends the others."""

    def __init__(self, whole: Inference, count: int) -> None:
        self._whole = whole
        self._works = [
            Single(self, row, {name: array[row : row + 1] for name, array in whole.inputs.items()}, whole.deadline)
            for row in range(count)
        ]
        self._answers: list[Tensors] = [{} for _ in range(count)]
        self._left = count
        self._timing = Timing(rows=count)

    def submit(self) -> None:
        try:
            for work in self._works:
                self._whole.server.batcher.submit(work)
        except OpenMaaSError:
            self.cancel()
            raise

    def cancel(self) -> None:
        self._left = -1
        for work in self._works:
            self._whole.server.batcher.cancel(work)

    def done(self, place: int, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        if self._left < 0:
            return
        if isinstance(result, OpenMaaSError):
            self.cancel()
            self._whole.done(result, timing)
            return
        self._answers[place] = result
        self._left -= 1
        self._timing.batch += timing.batch
        self._timing.model += timing.model
        if not self._left:
            waited = time.monotonic() - self._whole.arrived
            self._timing.queue = max(0.0, waited - self._timing.batch - self._timing.model)
            self._whole.done(self._joined(), self._timing)

    def _joined(self) -> Tensors | OpenMaaSError:
        try:
            return {name: np.concatenate([answer[name] for answer in self._answers]) for name in self._answers[0]}
        except Exception as error:
            return engine_error(error, "The answers to the rows cannot be joined")


class Prediction(Inference):
    """The same, answered in KServe V1's words."""

    __slots__ = ()

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        return oip.InferResponse(
            kserve.encode_predict(self.finished(outputs), self.server.batchable or self.singles is not None)
        )


class PlainPrediction(Inference):
    """The same, answered with one object a row. texts: the rows, where they are texts."""

    __slots__ = ("texts",)
    texts: tuple[str, ...]

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        processor = self.server.processor
        finished = self.finished(outputs)
        if processor.after is None:
            rows = plain.rows_of(finished, self.server.batchable or self.server.one_by_one)
        else:
            offsets = self.prepared.offsets if self.prepared is not None and self.texts else ()
            rows = processor.after.rows(finished, {"top": self.head.top}, offsets, self.texts)
        version = int(self.server.version)
        return oip.InferResponse(plain.encode(self.head.deployment, version, rows, self.notes))


def raw_rows(inputs: Tensors) -> np.ndarray[Any, Any]:
    """The only array of a request whose input is the public one."""
    (rows,) = inputs.values()
    return rows


def refuse_top() -> InvalidInput:
    return InvalidInput(
        "'top' asks for classes, and this model names none.", code="top_not_possible", next_step="Ask without 'top'."
    )
