"""A replica's own end of the link: body → typed inputs → batcher → body. One model version, checked against its signature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
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

Encode = Callable[[Tensors], tuple[bytes, int]]


class ReplicaServer:
    """Answers the calls of the link with one engine.

    max_body: bytes of a request body, also after decompression.
    """

    def __init__(self, spec: ReplicaSpec, engine: Engine, max_body: int) -> None:
        self._spec = spec
        self._manifest = spec.manifest
        self._signature = spec.manifest.signature
        self._engine = engine
        self._max_body = max_body
        self._version = str(spec.version)
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
        request = oip.decode_infer(self._body(call, head), head.json_size, self._signature)
        timeout = min(head.timeout, request.timeout) if request.timeout else head.timeout

        def encode(outputs: Tensors) -> tuple[bytes, int]:
            response = oip.encode_infer(head.deployment, self._version, request, outputs)
            return response.body, response.json_size

        self._submit(call, head, request.inputs, timeout, encode)

    def _v1_predict(self, call: IncomingCall, head: Call) -> None:
        inputs = kserve.decode_predict(self._body(call, head), self._signature)
        self._submit(
            call, head, inputs, head.timeout, lambda outputs: (kserve.encode_predict(outputs, self._manifest.batchable), -1)
        )

    def _body(self, call: IncomingCall, head: Call) -> bytes:
        body, call.payload = call.payload, b""
        return codings.decompress(body, head.content_encoding, self._max_body) if head.content_encoding else body

    def _submit(self, call: IncomingCall, head: Call, inputs: Tensors, timeout: float, encode: Encode) -> None:
        rows = oip.rows_of(inputs) if self._manifest.batchable else 1

        def done(result: Tensors | OpenMaaSError, timing: Timing) -> None:
            seconds = time.monotonic() - work.arrived
            statistics = self.batcher.statistics
            if isinstance(result, OpenMaaSError):
                statistics.failed(seconds)
                call.fail(result)
                return
            try:
                _answer(call, head, encode(result), timing)
            except OpenMaaSError as error:
                statistics.failed(seconds)
                call.fail(error)
            else:
                statistics.answered(timing, seconds)

        work = Work(inputs, rows, time.monotonic() + timeout, done)

        def cancel() -> None:
            work.cancelled = True

        call.on_cancel = cancel
        self.batcher.submit(work)

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
            return oip.model_metadata(head.deployment, [self._version], self._manifest)
        if head.operation == "config":
            return oip.model_config(head.deployment, self._manifest, self._spec.max_batch)
        if head.operation == "statistics":
            return self.batcher.statistics.as_wire(head.deployment, self._spec.version)
        raise InvalidInput(f"The replica does not know the operation {head.operation!r}.")


def _answer(call: IncomingCall, head: Call, encoded: tuple[bytes, int], timing: Timing) -> None:
    body, json_size = encoded
    coding = ""
    if head.accept_encoding:
        body, coding = codings.compress(body, head.accept_encoding)
    content_type = "application/json" if json_size < 0 else oip.BINARY_CONTENT_TYPE
    call.answer(_encode(Answer(200, content_type, coding, json_size, timing)), body)
