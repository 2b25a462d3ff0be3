"""Conversations → prompts, by the chat template that came with a model, in a child process that may hang or die of it."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from openmaas.core.errors import EngineFailed, OpenMaaSError, Unavailable
from openmaas.core.generation import Message
from openmaas.processing.generation import rendering

_START: Final = 30.0  # seconds, on a machine that is busy with loading a model


class ChatTemplate:
    """One child renders one conversation after the other, each well within a millisecond.

    A conversation on which the template hangs costs the child, and a new one is started for the next; others only wait for
    that.
    """

    def __init__(self, template: str, special: Mapping[str, str], *, seconds: float = 10.0, waiting: int = 256) -> None:
        """special: texts that a template may name. seconds: in which one must be rendered (the limit of processor time is a
        tighter one where the machine is idle). waiting: as many conversations at the same time, and no more.

        Raises EngineFailed where jinja2 is not installed."""
        rendering.require_jinja()
        self._order = rendering.order(template)
        self._special = dict(special)
        self._seconds = seconds
        self._room = waiting
        self._turn = asyncio.Lock()
        self._child: Process | None = None

    async def start(self) -> None:
        """Raises EngineFailed for a template that cannot be compiled."""
        async with self._turn:
            await self._running()

    async def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> str:
        """The prompt, with the beginning of the answer unless `variables` says add_generation_prompt: false.

        wanted: whether the caller is still there when the conversation's turn has come. Raises InvalidInput for what the
        template refuses, fails on, or does not finish with; Unavailable where too many wait, or where nobody does any more.
        """
        given = rendering.conversation(self._special, messages, tools, variables)
        if self._room <= 0:
            raise Unavailable(
                "Too many conversations wait for the chat template.", code="template_busy", retry_after=1.0,
                next_step="Ask again in a moment.",
            )  # fmt: skip
        self._room -= 1
        try:
            async with self._turn:
                if not wanted():
                    raise Unavailable("The caller has left.", code="stopping")
                reply = rendering.read(await self._answer(await self._running(), given, self._seconds))
                if reply.error == "memory":
                    await self._drop()  # what a full heap still does is anybody's guess
        finally:
            self._room += 1
        if reply.error:
            raise rendering.error_of(reply)
        return reply.text

    async def close(self) -> None:
        async with self._turn:
            await self._drop()

    async def _running(self) -> Process:
        if self._child is not None and self._child.returncode is None:
            return self._child
        try:
            self._child = await asyncio.create_subprocess_exec(
                *rendering.COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env=rendering.child_environment(),
                start_new_session=True,  # a Ctrl-C is for this process to handle
            )
        except OSError as error:
            raise rendering.no_process(error) from None
        try:
            reply = rendering.read(await self._answer(self._child, self._order, _START))
        except OpenMaaSError as error:  # what is constant is computed while compiling, for as long as it takes
            raise EngineFailed(f"The chat template cannot be compiled. {error.message}", code="load_failed") from None
        if reply.error:
            await self._drop()
            raise EngineFailed(f"The chat template cannot be compiled: {reply.said}.", code="load_failed")
        return self._child

    async def _answer(self, child: Process, data: bytes, seconds: float) -> bytes:
        """The child's reply to one frame. Whatever goes wrong, the caller's leaving included, the child goes: what it may still
        write would be taken for the next answer."""
        assert child.stdin is not None and child.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                child.stdin.write(data)
                await child.stdin.drain()
                length = int.from_bytes(await child.stdout.readexactly(4), "big")
                if length > rendering.MAX_REPLY:
                    raise ConnectionError
                return await child.stdout.readexactly(length)
        except TimeoutError:
            await self._drop()
            raise rendering.took_too_long(f"{seconds:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            with contextlib.suppress(TimeoutError):  # it is about to end, and to say why
                await asyncio.wait_for(child.wait(), 1.0)
            await self._drop()
            raise rendering.death(child.returncode) from None
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()
