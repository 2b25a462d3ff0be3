"""A replica's own end of the link: body → typed inputs → batcher → body. One model version, checked against its signature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, Timing
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.link import IncomingCall
from openmaas.engines import Engine
from openmaas.protocols import codings, kserve, oip
from openmaas.replica.batcher import Batcher, Tensors, Work, engine_error

_decode_call = msgspec.msgpack.Decoder(Call).decode
_encode = msgspec.msgpack.Encoder().encode
_STREAMS = 64
# Bytes from which a body is decoded, or outputs encoded, beside the event loop, so that everybody else is served meanwhile.
_LARGE = 256 * 1024
_LARGE_CODED = 16 * 1024


class ReplicaServer:
    """Answers the calls of the link with one engine.

    max_body: bytes of a request body, also after decompression.
    """

    def __init__(self, spec: ReplicaSpec, engine: Engine, max_body: int) -> None:
        self._spec = spec
        self._manifest = spec.manifest
        self.batchable = spec.manifest.batchable
        self._signature = spec.manifest.signature
        self._engine = engine
        self._max_body = max_body
        self.version = str(spec.version)
        self._decoder = oip.InferDecoder(self._signature)
        self._streams = 0
        self._stream_threads = ThreadPoolExecutor(_STREAMS, thread_name_prefix="stream")
        self._large_thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._tasks: set[asyncio.Task[None]] = set()
        self.batcher = Batcher(
            engine.run,
            batchable=spec.manifest.batchable,
            max_batch=spec.max_batch,
            max_queue=spec.max_queue,
            max_wait=spec.max_wait,
        )

    def handle(self, call: IncomingCall) -> None:
        """Start one call; it ends by itself, now or later. Raises the error that ends it at once."""
        head = _decode_call(call.header)
        if head.operation in ("infer", "v1_predict"):
            self.batcher.check_room()
            if len(call.payload) < (_LARGE_CODED if head.content_encoding else _LARGE):
                self._submit(self._decoded(call, head))
            else:
                self.beside(call, self._decode_large(call, head))
        elif head.operation == "generate":
            self._generate(call, head)
        else:
            call.answer(_encode(Answer()), msgspec.json.encode(self._about(head)))

    def health(self) -> bytes:
        """The answer to a ping, msgpack of contracts.Health."""
        statistics, batcher = self.batcher.statistics, self.batcher
        in_flight = batcher.in_flight + self._streams
        return _encode(Health(True, statistics.success.count, in_flight, batcher.queued, batcher.stalled))

    def close(self) -> None:
        self.batcher.close()
        for task in self._tasks:
            task.cancel()
        self._stream_threads.shutdown(wait=False, cancel_futures=True)
        self._large_thread.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    def beside(self, call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
        """Go on with a call in a task. What the task raises ends the call."""
        task = asyncio.get_running_loop().create_task(_until_the_end(call, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # predictions

    def _decoded(self, call: IncomingCall, head: Call) -> _Inference:
        """The work of a call. Raises the error that ends it at once."""
        body = self._body(call, head)
        if head.operation == "v1_predict":
            inputs = kserve.decode_predict(body, self._signature)
            work: _Inference = _Prediction(self, call, head, oip.InferRequest(inputs), head.timeout)
        else:
            request = self._decoder.decode(body, head.json_size)
            timeout = min(head.timeout, request.timeout) if request.timeout else head.timeout
            work = _Inference(self, call, head, request, timeout)
        if self.batchable:
            work.rows = oip.rows_of(work.inputs)
        return work

    async def _decode_large(self, call: IncomingCall, head: Call) -> None:
        arrived = time.monotonic()
        work = await asyncio.get_running_loop().run_in_executor(self._large_thread, self._decoded, call, head)
        work.deadline -= work.arrived - arrived
        work.arrived = arrived
        if not call.cancelled:
            self._submit(work)

    async def answer_large(self, work: _Inference, outputs: Tensors, timing: Timing) -> None:
        try:
            loop = asyncio.get_running_loop()
            work.answer(await loop.run_in_executor(self._large_thread, work.encoded, outputs, timing), timing)
        except Exception as error:
            work.fail(error)

    def _body(self, call: IncomingCall, head: Call) -> bytes:
        body, call.payload = call.payload, b""
        return codings.decompress(body, head.content_encoding, self._max_body) if head.content_encoding else body

    def _submit(self, work: _Inference) -> None:
        self.batcher.submit(work)
        work.call.on_cancel = work.cancel

    # streams

    def _generate(self, call: IncomingCall, head: Call) -> None:
        request = oip.decode_infer(self._body(call, head), head.json_size, self._signature)
        self.beside(call, self._stream(call, self._engine.generate(request.inputs)))

    async def _stream(self, call: IncomingCall, pieces: Iterator[bytes]) -> None:
        """Chunks as the engine yields them; stops within one piece when the caller leaves."""
        loop = asyncio.get_running_loop()
        self._streams += 1
        try:
            while not call.cancelled:
                piece = await loop.run_in_executor(self._stream_threads, next, pieces, None)
                if piece is None:
                    call.end()
                    return
                await call.chunk(piece)
        finally:
            self._streams -= 1
            if (close := getattr(pieces, "close", None)) is not None:
                await loop.run_in_executor(self._stream_threads, close)

    # what the model says of itself

    def _about(self, head: Call) -> object:
        if head.operation == "metadata":
            return oip.model_metadata(head.deployment, [self.version], self._manifest)
        if head.operation == "config":
            return oip.model_config(head.deployment, self._manifest, self._spec.max_batch)
        if head.operation == "statistics":
            return self.batcher.statistics.as_wire(head.deployment, self._spec.version)
        raise InvalidInput(f"The replica does not know the operation {head.operation!r}.")


class _Inference(Work):
    """A request on its way through the batcher, and the call that waits for it."""

    __slots__ = ("call", "head", "request", "server")

    def __init__(
        self, server: ReplicaServer, call: IncomingCall, head: Call, request: oip.InferRequest, timeout: float
    ) -> None:
        super().__init__(request.inputs, 1, timeout)
        self.server = server
        self.call = call
        self.head = head
        self.request = request

    def cancel(self) -> None:
        """The caller left."""
        self.server.batcher.cancel(self)

    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        try:
            if isinstance(result, OpenMaaSError):
                self.fail(result)
            elif sum([array.nbytes for array in result.values()]) < _LARGE:
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
        return oip.encode_infer(self.head.deployment, self.server.version, self.request, outputs)


class _Prediction(_Inference):
    """The same, answered in KServe V1's words."""

    __slots__ = ()

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        return oip.InferResponse(kserve.encode_predict(outputs, self.server.batchable))


async def _until_the_end(call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        call.fail(engine_error(error, "The request broke"))
