"""The link's end of a replica that generates: body → what is asked for → token ids → engine → text in the caller's protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec
from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.link import IncomingCall
from openmaas.core.log import get_logger
from openmaas.engines import GenerationEngine
from openmaas.processing.generation import StopStrings, TextModel
from openmaas.protocols import codings, oip
from openmaas.protocols.generation import Ask
from openmaas.protocols.openai import (
    decode_ask,
    decode_detokenize,
    decode_tokenize,
    encode_detokenize,
    encode_tokenize,
    open_writer,
)
from openmaas.replica.generation.completion import Completion
from openmaas.replica.generation.generation import Generation
from openmaas.replica.generation.loop import Broke
from openmaas.replica.generation.planning import Planner
from openmaas.replica.generation.prompts import Prompts, wants_tools
from openmaas.replica.generation.scheduler import Scheduler
from openmaas.replica.generation.statistics import GenerationStatistics
from openmaas.replica.running import engine_error
from openmaas.replica.statistics import Statistics

_decode_call: Final = msgspec.msgpack.Decoder(Call).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_GENERATES: Final = frozenset({"chat", "completions", "responses", "generate", "generate_stream"})
_TENSORS: Final = frozenset({"infer", "v1_predict", "predict"})
_LARGE: Final = 256 * 1024
"""Bytes from which a body is decoded beside the event loop."""
_MANY: Final = 4096
"""Tokens from which an answer about them is written there too."""
_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")
_P = ParamSpec("_P")


class GenerationServer:
    """Answers the calls of the link with one engine that generates.

    max_body: bytes of a request body, also after decompression. text: the version's tokenizer and chat template, started.
    on_broken: called once when the engine broke, after every request was told; the process is then to end.
    """

    def __init__(
        self, spec: ReplicaSpec, engine: GenerationEngine, max_body: int, text: TextModel, on_broken: Broke = lambda error: None
    ) -> None:
        generator = spec.manifest.generator
        assert generator is not None
        self.engine = engine
        self._spec = spec
        self._text = text
        self._max_body = max_body
        self._context = generator.context
        self._prompts = Prompts(text, generator)
        self._planner = Planner(generator, engine.name, engine.honours)
        if self._planner.ignored:
            get_logger("replica").warning("defaults_ignored", engine=engine.name, defaults=self._planner.ignored)
        self._ids = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.statistics = Statistics()
        self.counts = GenerationStatistics()
        self.scheduler = Scheduler(
            engine,
            max_running=spec.max_batch,
            max_queue=spec.max_queue,
            statistics=self.statistics,
            counts=self.counts,
            on_broken=on_broken,
        )

    @property
    def in_flight(self) -> int:
        """Requests that are not over."""
        return self.scheduler.in_flight

    def handle(self, call: IncomingCall) -> None:
        """Start one call; it ends by itself, now or later. Raises the error that ends it at once."""
        head = _decode_call(call.header)
        if head.operation in _GENERATES:
            self.scheduler.check_room()
            self._check_preparing()
            generation = Generation(call, head, self.statistics, self.counts, self.scheduler.leave)
            self.scheduler.enter(generation)
            self._beside(self._generate(call, head, generation), generation.fail)
        elif head.operation in ("tokenize", "detokenize"):
            self._check_preparing()
            work = self._tokenize(call, head) if head.operation == "tokenize" else self._detokenize(call, head)
            self._beside(work, lambda error: call.fail(engine_error(error, "The tokenizer failed")))
        else:
            call.answer(_encode(Answer()), msgspec.json.encode(self._about(head)))

    def health(self) -> bytes:
        """The answer to a ping, msgpack of contracts.Health."""
        scheduler = self.scheduler
        answered = self.statistics.success.count
        return _encode(Health(scheduler.ready, answered, scheduler.in_flight, scheduler.waiting, scheduler.stalled))

    def close(self) -> None:
        self.scheduler.close()
        for task in self._tasks:
            task.cancel()
        self._prompts.close()

    def _check_preparing(self) -> None:
        """Raise Unavailable where too many are being read and tokenised: whose caller has left is not in the line any more."""
        if len(self._tasks) >= self._spec.max_queue + self._spec.max_batch:
            self.statistics.rejected += 1
            raise Unavailable(
                f"{len(self._tasks)} requests are being tokenised already; the limit (max_queue) is {self._spec.max_queue}.",
                code="queue_full",
                retry_after=1.0,
                next_step="Try again later, or deploy with more --replicas.",
            )

    def _beside(self, work: Coroutine[Any, Any, None], fail: Callable[[Exception], None]) -> None:
        """Go on with a call in a task. fail: gets what the task raises."""
        task = asyncio.get_running_loop().create_task(_until_the_end(work, fail))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # answers

    async def _generate(self, call: IncomingCall, head: Call, generation: Generation) -> None:
        ask = await self._decoded(call, head, partial(decode_ask, head.operation))
        self._planner.check(ask)
        self._prompts.check(ask)
        prompts = await self._prompts.of(ask, lambda: not generation.over)
        if generation.over:
            return
        requests = self._planner.plan(ask, prompts, self._ids, head.project, self._prompts.grammar(ask))
        writer = open_writer(
            head.operation,
            ask,
            request_id=head.request_id,
            deployment=head.deployment,
            version=self._spec.version,
            created=int(time.time()),
        )
        tools, stops = wants_tools(ask), StopStrings(ask.stop) if ask.stop else None
        completions = [
            Completion(
                index, request, self._text, ask, stops=stops and stops.anew(), tools=tools, prefix=self._echo(ask, index)
            )
            for index, request in enumerate(requests)
        ]
        generation.plan(ask, writer, completions)
        self.scheduler.submit(generation)

    async def _decoded(self, call: IncomingCall, head: Call, decode: Callable[[bytes], _Asked]) -> _Asked:
        body, call.payload = call.payload, b""
        if head.content_encoding:
            return await asyncio.to_thread(lambda: decode(codings.decompress(body, head.content_encoding, self._max_body)))
        return await _beside_where(len(body) >= _LARGE, decode, body)

    def _echo(self, ask: Ask, index: int) -> str:
        if not ask.echo:
            return ""
        prompt = ask.prompts[index // ask.n]
        return prompt if isinstance(prompt, str) else self._text.codec.decode(prompt)

    # tokens

    async def _tokenize(self, call: IncomingCall, head: Call) -> None:
        ask = await self._decoded(call, head, decode_tokenize)
        if ask.messages is None:
            tokens = await self._prompts.encode(ask.prompt or "", lambda: not call.done, special=ask.special)
        else:
            variables = ask.template_variables | {"add_generation_prompt": ask.add_generation_prompt}
            tokens = await self._prompts.conversation(
                ask.messages, ask.tools, variables, lambda: not call.done, special=ask.special
            )
        call.answer(_encode(Answer()), await _beside_where(len(tokens) >= _MANY, self._told, tokens, ask.strings))

    def _told(self, tokens: list[int], wants_strings: bool) -> bytes:
        strings = [self._text.codec.token(token)[0] for token in tokens] if wants_strings else None
        return encode_tokenize(tokens, context=self._context, strings=strings)

    async def _detokenize(self, call: IncomingCall, head: Call) -> None:
        tokens = await self._decoded(call, head, decode_detokenize)
        text = await asyncio.to_thread(self._text.codec.decode, tokens)
        call.answer(_encode(Answer()), encode_detokenize(text))

    # what the version says of itself

    def _about(self, head: Call) -> object:
        manifest = self._spec.manifest
        if head.operation == "metadata":
            return oip.model_metadata(head.deployment, [str(self._spec.version)], manifest, manifest.signature)
        if head.operation == "config":
            return oip.model_config(head.deployment, manifest, self._spec.max_batch, manifest.signature)
        if head.operation == "statistics":
            self.statistics.executions = self.scheduler.steps
            return self.statistics.as_wire(head.deployment, self._spec.version) | {"generation": self.scheduler.as_wire()}
        name = head.deployment
        if head.operation in _TENSORS:
            raise InvalidInput(
                f"{name!r} generates text; it takes no tensors.",
                code="generates_text",
                next_step=f"POST to /v1/chat/completions, /v1/completions or /v1/responses with model {name!r}, "
                f"or to /v2/models/{name}/generate.",
            )
        raise InvalidInput(f"{name!r} generates text; it cannot do {head.operation!r}.", code="generates_text")


async def _until_the_end(work: Coroutine[Any, Any, None], fail: Callable[[Exception], None]) -> None:
    try:
        await work
    except Exception as error:
        fail(error)


async def _beside_where(large: bool, work: Callable[_P, _Told], *args: _P.args, **kwargs: _P.kwargs) -> _Told:
    """What the work gives, done beside the event loop where it is large."""
    return await asyncio.to_thread(work, *args, **kwargs) if large else work(*args, **kwargs)
