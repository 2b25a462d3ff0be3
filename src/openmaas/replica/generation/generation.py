"""One caller's request: n answers joined to one, written in the protocol that asked. It ends exactly once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from openmaas.core.contracts import Answer, Call, Timing
from openmaas.core.errors import DeadlineExceeded, OpenMaaSError
from openmaas.core.generation import Progress
from openmaas.core.link import IncomingCall
from openmaas.core.log import get_logger
from openmaas.protocols import codings
from openmaas.protocols.generation import Ask, Usage, Writer
from openmaas.replica.generation.completion import Completion
from openmaas.replica.generation.statistics import Ending, GenerationStatistics
from openmaas.replica.running import engine_error
from openmaas.replica.statistics import Statistics

_encode: Final = msgspec.msgpack.Encoder().encode
_MANY: Final = 4096
"""Probabilities from which an answer is written beside the event loop: a million of them take seconds."""


class Generation:
    """From its arrival until its answer, its error, its deadline or its caller's leaving, whichever comes first.

    pending: completions that the engine has not been asked for. begun: when it was asked for the first, 0 before.
    on_end: called once, whatever the end; completions that are not finished by then are nobody's.
    """

    def __init__(
        self,
        call: IncomingCall,
        head: Call,
        statistics: Statistics,
        counts: GenerationStatistics,
        on_end: Callable[[Generation], None],
    ) -> None:
        self.head = head
        self.completions: Sequence[Completion] = ()
        self.pending: deque[Completion] = deque()
        self.begun = 0.0
        self.over = False
        self._call = call
        self._statistics = statistics
        self._counts = counts
        self._on_end = on_end
        self._arrived = time.monotonic()
        self._planned = 0.0
        self._first = 0.0
        self._left = 0
        self._written = False
        self._parts: list[bytes] = []
        self._timer = asyncio.get_running_loop().call_later(head.timeout, self._late)
        call.on_cancel = self._cancel

    def plan(self, ask: Ask, writer: Writer, completions: Sequence[Completion]) -> None:
        """It is known what is asked for. completions: of the first prompt n, of the second n …"""
        self._ask = ask
        self._writer = writer
        self.completions = completions
        self.pending = deque(completions)
        self._left = len(completions)
        self._planned = time.monotonic()

    def begin(self) -> Completion:
        """The next completion, to be asked for."""
        if not self.begun:
            self.begun = time.monotonic()
            self._counts.queue.add(self.begun - self._planned)
        return self.pending.popleft()

    def give(self, completion: Completion, progress: Progress, now: float) -> None:
        """What a step gave one of the completions; `flush` sends what all of them were given."""
        if progress.error is not None:
            self.fail(progress.error)
            return
        delta = completion.push(progress)
        if progress.tokens:
            self._count(completion, len(progress.tokens), now)
        if self._ask.stream and not (self._written or self._parts) and (delta is not None or completion.finish):
            self._parts.append(self._writer.start())  # before all else: some writers number what they write
        if self._ask.stream and delta is not None:
            self._parts.append(self._writer.delta(completion.index, delta))
        if completion.finish:
            self._left -= 1
            self._counts.finished[completion.finish] += 1
            if self._ask.stream:
                self._parts.append(self._writer.finish(completion.index, completion.finish))

    def flush(self) -> None:
        """Send what has come together, in one write."""
        if self.over:
            return
        if not self._ask.stream:
            if not self._left:
                self._answer()
            return
        if not self._left:
            self._parts.append(self._writer.end(self._usage()))
        elif not self._parts:
            return
        payload, self._parts = b"".join(self._parts), []
        self._write(payload)
        if not self._left:
            self._call.end()
            self._succeed()

    def fail(self, error: Exception) -> None:
        """End it with an error, before the answer or in the middle of it."""
        if self.over:
            return
        if not isinstance(error, OpenMaaSError):
            get_logger("replica").error("request_broke", exc_info=error)
        self._call.fail(engine_error(error, "The answer cannot be made"))
        if self._planned:  # a refusal is no failure of the model
            self._statistics.failed(time.monotonic() - self._arrived)
        self._end("error")

    # ends

    def _cancel(self) -> None:
        """The caller left."""
        if not self.over:
            self._statistics.cancelled += 1
            self._end("cancelled")

    def _late(self) -> None:
        self.fail(
            DeadlineExceeded(
                f"The request's {self.head.timeout:g} s were over before the answer was whole.",
                next_step="Allow it more time, ask for fewer tokens (max_tokens), or deploy with more --replicas.",
            )
        )

    def _succeed(self) -> None:
        self._statistics.answered(self._timing(), time.monotonic() - self._arrived)
        self._counts.whole.add(time.monotonic() - self._arrived)
        self._end(None)

    def _end(self, ending: Ending | None) -> None:
        self.over = True
        self._timer.cancel()
        if ending is not None:
            self._counts.finished[ending] += self._left
        self._statistics.touch()
        self._on_end(self)

    # the answer

    def _write(self, payload: bytes) -> None:
        if self._written:
            self._call.write(payload)
        else:
            self._written = True
            head = Answer(200, self._writer.content_type, timing=self._timing())
            self._call.write(payload, _encode(head))

    def _answer(self) -> None:
        usage = self._usage()
        if usage.completion * (1 + self._ask.logprobs) < _MANY:
            self._send(*self._whole(usage))
        else:
            asyncio.get_running_loop().run_in_executor(None, self._whole, usage).add_done_callback(self._made)

    def _whole(self, usage: Usage) -> tuple[bytes, str]:
        """The body and its coding."""
        body = self._writer.whole([completion.choice for completion in self.completions], usage)
        return codings.compress(body, self.head.accept_encoding) if self.head.accept_encoding else (body, "")

    def _made(self, making: asyncio.Future[tuple[bytes, str]]) -> None:
        if (error := making.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        elif not self.over:
            self._send(*making.result())

    def _send(self, body: bytes, coding: str) -> None:
        try:
            self._call.answer(_encode(Answer(200, self._writer.content_type, coding, timing=self._timing())), body)
        except OpenMaaSError as error:  # it does not fit into a frame
            self.fail(error)
        else:
            self._succeed()

    def _usage(self) -> Usage:
        firsts = self.completions[:: self._ask.n]
        return Usage(
            prompt=sum([len(completion.request.prompt) for completion in firsts]),
            completion=sum([completion.generated for completion in self.completions]),
            cached=None if any(completion.cached < 0 for completion in firsts) else sum([one.cached for one in firsts]),
        )

    def _count(self, completion: Completion, tokens: int, now: float) -> None:
        """Count what came, and how long it took."""
        if not completion.last:
            if completion.index % self._ask.n == 0:
                self._counts.prompt_tokens += len(completion.request.prompt)
                self._counts.cached_tokens += max(0, completion.cached)
            if not self._first:
                self._first = now
                self._counts.first_token.add(now - self._arrived)
        else:
            self._counts.between_tokens.add((now - completion.last) / tokens, tokens)
        completion.last = now

    def _timing(self) -> Timing:
        prepare = self._planned - self._arrived
        return Timing(self.begun - self._planned, 0.0, time.monotonic() - self.begun, len(self.completions), prepare)
