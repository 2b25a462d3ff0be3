"""A replica's own end of the link: body → typed inputs → batcher → body. One model version, checked against its signature."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, Timing
from openmaas.core.errors import DeadlineExceeded, InvalidInput, Unavailable
from openmaas.core.link import IncomingCall
from openmaas.core.processing import Labels
from openmaas.engines import Engine
from openmaas.processing import Processor
from openmaas.protocols import codings, oip
from openmaas.protocols.openai import decode_embeddings
from openmaas.protocols.plain import Decoded, PlainDecoder
from openmaas.replica.batcher import Batcher, Tensors, engine_error
from openmaas.replica.embeddings import EmbeddingAnswer, embeds
from openmaas.replica.inference import LARGE, Inference, PlainPrediction, Prediction, raw_rows, refuse_top

_decode_call = msgspec.msgpack.Decoder(Call).decode
_encode = msgspec.msgpack.Encoder().encode
_PREDICTS = frozenset({"infer", "v1_predict", "predict", "embeddings"})
_Kind = TypeVar("_Kind", bound=Inference)
_LARGE_CODED = 1024  # a thousandfold of it may come out


class ReplicaServer:
    """Answers the calls of the link with one engine.

    max_body: bytes of a request body, also after decompression. processor: what makes the engine's inputs of texts, images and
    tables, and answers of its outputs; without one tensors pass as they are.
    """

    def __init__(self, spec: ReplicaSpec, engine: Engine, max_body: int, processor: Processor | None = None) -> None:
        self._spec = spec
        self._manifest = spec.manifest
        self.batchable = spec.manifest.batchable
        self._signature = spec.manifest.signature
        self.engine = engine
        self._max_body = max_body
        self.version = str(spec.version)
        self.processor = processor or Processor(self._signature, None, None, None)
        self._decoder = oip.InferDecoder(self._signature, self.processor.public)
        self._plain = PlainDecoder(self._signature, self.processor.input)
        before = self.processor.before
        self._quick = before.quick if before is not None else LARGE
        self._names_classes = spec.manifest.processing is not None and isinstance(spec.manifest.processing.output, Labels)
        # Of such an engine the rows of a request can be asked for one by one.
        specs = (*self._signature.inputs, *self._signature.outputs)
        self.one_by_one = not self.batchable and all(spec.shape[:1] == (1,) for spec in specs)
        self._preparing = 0
        self._preparers = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="prepare")
        self._large_thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._tasks: set[asyncio.Task[None]] = set()
        self.batcher = Batcher(
            engine.run,
            batchable=spec.manifest.batchable,
            max_batch=spec.max_batch,
            max_queue=spec.max_queue,
            max_wait=spec.max_wait,
            padding=spec.manifest.padding,
            max_tokens=spec.max_tokens,
        )

    @property
    def in_flight(self) -> int:
        """Requests that are being decoded, wait or run."""
        return self.batcher.in_flight + self._preparing

    def handle(self, call: IncomingCall) -> None:
        """Start one call; it ends by itself, now or later. Raises the error that ends it at once."""
        head = _decode_call(call.header)
        if head.operation in _PREDICTS:
            self.batcher.check_room()
            size = len(call.payload)
            if size >= (_LARGE_CODED if head.content_encoding else LARGE):
                self.beside(call, self._decode_large(call, head))
                return
            work = self._decoded(call, head)
            if work.raw is None:
                self._submit(work)
            elif size <= self._quick and not head.content_encoding:  # a few bytes may be compressed from very many
                work.prepare()
                self._submit(work)
            else:
                self.beside(call, self._prepare(work))
        else:
            call.answer(_encode(Answer()), msgspec.json.encode(self._about(head)))

    def health(self) -> bytes:
        """The answer to a ping, msgpack of contracts.Health."""
        statistics, batcher = self.batcher.statistics, self.batcher
        return _encode(Health(True, statistics.success.count, self.in_flight, batcher.queued, batcher.stalled))

    def close(self) -> None:
        self.batcher.close()
        for task in self._tasks:
            task.cancel()
        self._large_thread.shutdown(wait=False, cancel_futures=True)
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self.engine.close()

    def beside(self, call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
        """Go on with a call in a task. What the task raises ends the call."""
        task = asyncio.get_running_loop().create_task(_until_the_end(call, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # predictions

    def _decoded(self, call: IncomingCall, head: Call) -> Inference:
        """The work of a call. Raises the error that ends it at once."""
        body = self._body(call, head)
        if head.operation == "infer":
            request = self._decoder.decode(body, head.json_size)
            timeout = min(head.timeout, request.timeout) if request.timeout else head.timeout
            work = Inference(self, call, head, request, timeout, raw_rows(request.inputs) if request.raw else None)
        elif head.operation == "v1_predict":
            work = self._plainly(Prediction, call, head, self._plain.decode_v1(body))
        elif head.operation == "embeddings":
            work = self._embedding(call, head, body)
        else:
            if head.top and not self._names_classes:
                raise refuse_top()
            decoded = self._plain.decode(body, head.content_type)
            work = answer = self._plainly(PlainPrediction, call, head, decoded)
            answer.texts = decoded.texts
        if self.batchable and work.raw is None:
            work.rows = oip.rows_of(work.inputs)
        return work

    def _plainly(self, kind: type[_Kind], call: IncomingCall, head: Call, decoded: Decoded) -> _Kind:
        raw = decoded.rows if decoded.inputs is None else None
        return kind(self, call, head, oip.InferRequest(decoded.inputs or {}), head.timeout, raw)

    def _embedding(self, call: IncomingCall, head: Call, body: bytes) -> EmbeddingAnswer:
        if not embeds(self._manifest.processing, self.processor.before):
            raise InvalidInput(
                f"{head.deployment!r} makes no vectors of texts.",
                code="does_not_embed",
                next_step=f"POST to /predict/{head.deployment} or /v2/models/{head.deployment}/infer.",
            )
        ask = decode_embeddings(body)
        work = EmbeddingAnswer(self, call, head, oip.InferRequest({}), head.timeout, ask.inputs)
        work.ask = ask
        return work

    def check_rows(self, inputs: Tensors) -> None:
        """Whether an engine with a fixed number of rows gets as many. Raises InvalidInput."""
        for spec in self._signature.inputs:
            fixed, came = spec.shape[0] if spec.shape else -1, len(inputs[spec.name])
            if fixed not in (-1, came):
                raise InvalidInput(
                    f"The model takes {fixed} {'row' if fixed == 1 else 'rows'} a request; {came} came.",
                    code="shape_mismatch",
                    next_step=f"Send {fixed} at a time.",
                )

    async def _decode_large(self, call: IncomingCall, head: Call) -> None:
        arrived = time.monotonic()
        work = await asyncio.get_running_loop().run_in_executor(self._large_thread, self._decoded, call, head)
        work.deadline -= work.arrived - arrived
        work.arrived = arrived
        if work.raw is not None:
            await self._prepare(work)
        elif not call.cancelled:
            self._submit(work)

    async def _prepare(self, work: Inference) -> None:
        """Make the engine's inputs beside the event loop, several requests' at a time."""
        if self._preparing >= self._spec.max_queue:
            raise Unavailable(
                f"{self._preparing} requests are being decoded already, the limit (max_queue) is {self._spec.max_queue}.",
                code="queue_full",
                retry_after=1.0,
                next_step="Try again later, or deploy with more --replicas.",
            )
        self._preparing += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._preparers, _prepare_if_wanted, work)
        finally:
            self._preparing -= 1
        if not work.call.cancelled:
            self._submit(work)

    async def answer_large(self, work: Inference, outputs: Tensors, timing: Timing) -> None:
        try:
            loop = asyncio.get_running_loop()
            work.answer(await loop.run_in_executor(self._large_thread, work.encoded, outputs, timing), timing)
        except Exception as error:
            work.fail(error)

    def _body(self, call: IncomingCall, head: Call) -> bytes:
        body, call.payload = call.payload, b""
        return codings.decompress(body, head.content_encoding, self._max_body) if head.content_encoding else body

    def _submit(self, work: Inference) -> None:
        work.submit()
        work.call.on_cancel = work.cancel

    # what the model says of itself

    def _about(self, head: Call) -> object:
        if head.operation == "metadata":
            return oip.model_metadata(head.deployment, [self.version], self._manifest, self.processor.public)
        if head.operation == "config":
            return oip.model_config(head.deployment, self._manifest, self._spec.max_batch, self.processor.public)
        if head.operation == "statistics":
            return self.batcher.statistics.as_wire(head.deployment, self._spec.version)
        raise InvalidInput(
            f"{head.deployment!r} does not generate text.",
            code="does_not_generate",
            next_step=f"POST to /predict/{head.deployment} or /v2/models/{head.deployment}/infer.",
        )


def _prepare_if_wanted(work: Inference) -> None:
    """Unless its caller has left or its time is over."""
    if work.call.cancelled:
        return
    if work.deadline <= time.monotonic():
        raise DeadlineExceeded("The request's time was over before its input was decoded.")
    work.prepare()


async def _until_the_end(call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        call.fail(engine_error(error, "The request broke"))
