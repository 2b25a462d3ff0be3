"""A replica's own end of the link: body → typed inputs → batcher → body. One model version, checked against its signature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, Timing
from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError
from openmaas.core.link import IncomingCall
from openmaas.engines import Engine
from openmaas.protocols import codings, kserve, oip
from openmaas.replica.batcher import Batcher, Tensors, Work

_decode_call = msgspec.msgpack.Decoder(Call).decode
_encode = msgspec.msgpack.Encoder().encode
_STREAMS = 64


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
        if head.operation == "infer":
            self._infer(call, head)
        elif head.operation == "v1_predict":
            self._v1_predict(call, head)
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
        self._engine.close()

    # predictions

    def _infer(self, call: IncomingCall, head: Call) -> None:
        request = self._decoder.decode(self._body(call, head), head.json_size)
        timeout = min(head.timeout, request.timeout) if request.timeout else head.timeout
        self._submit(_Inference(self, call, head, request, timeout))

    def _v1_predict(self, call: IncomingCall, head: Call) -> None:
        inputs = kserve.decode_predict(self._body(call, head), self._signature)
        self._submit(_Prediction(self, call, head, oip.InferRequest(inputs), head.timeout))

    def _body(self, call: IncomingCall, head: Call) -> bytes:
        body, call.payload = call.payload, b""
        return codings.decompress(body, head.content_encoding, self._max_body) if head.content_encoding else body

    def _submit(self, work: _Inference) -> None:
        if self.batchable:
            work.rows = oip.rows_of(work.inputs)
        self.batcher.submit(work)
        work.call.on_cancel = work.cancel

    # streams

    def _generate(self, call: IncomingCall, head: Call) -> None:
        request = oip.decode_infer(self._body(call, head), head.json_size, self._signature)
        task = asyncio.get_running_loop().create_task(self._stream(call, self._engine.generate(request.inputs)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        except OpenMaaSError as error:
            call.fail(error)
        except Exception as error:
            call.fail(EngineFailed(f"The stream broke: {type(error).__name__}: {' '.join(str(error).split())[:300]}."))
        finally:
            self._streams -= 1
            close = getattr(pieces, "close", None)
            if close is not None:
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

    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        seconds = time.monotonic() - self.arrived
        statistics = self.server.batcher.statistics
        if isinstance(result, OpenMaaSError):
            statistics.failed(seconds)
            self.call.fail(result)
            return
        try:
            self._answer(result, timing)
        except OpenMaaSError as error:
            statistics.failed(seconds)
            self.call.fail(error)
        else:
            statistics.answered(timing, seconds)

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        return oip.encode_infer(self.head.deployment, self.server.version, self.request, outputs)

    def _answer(self, outputs: Tensors, timing: Timing) -> None:
        response = self.encode(outputs)
        body, coding = response.body, ""
        if self.head.accept_encoding:
            body, coding = codings.compress(body, self.head.accept_encoding)
        content_type = "application/json" if response.json_size < 0 else oip.BINARY_CONTENT_TYPE
        self.call.answer(_encode(Answer(200, content_type, coding, response.json_size, timing)), body)


class _Prediction(_Inference):
    """The same, answered in KServe V1's words."""

    __slots__ = ()

    def encode(self, outputs: Tensors) -> oip.InferResponse:
        return oip.InferResponse(kserve.encode_predict(outputs, self.server.batchable))
