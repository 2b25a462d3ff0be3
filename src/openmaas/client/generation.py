"""Talk with a deployment that generates text: answers whole, or piece by piece as they come."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

import msgspec

from openmaas.client.answers import check, decode
from openmaas.client.driver import Asynchronous, Blocking, Session, operation
from openmaas.client.steps import Operation, Request, Response
from openmaas.core.errors import OpenMaaSError, Unavailable

P = ParamSpec("P")

_MARGIN = 5.0  # seconds that the answer may travel beyond the request's own deadline
_END = b"[DONE]"


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens, as the model's engine counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class ChatAnswer(msgspec.Struct, kw_only=True):
    """A whole answer. finish: stop, length or tool_calls. tool_calls: as OpenAI has them."""

    text: str
    finish: str
    usage: ChatUsage
    tool_calls: list[dict[str, Any]] = []


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    message: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str
    code: str | None = None


class _Chunk(msgspec.Struct):
    """Of a stream, or the whole answer: of both, what is read here."""

    choices: list[_Choice] = []
    usage: ChatUsage | None = None
    error: _Error | None = None


class _Reading:
    """What has come of a stream so far. `feed` takes bytes as they come and gives the texts that they completed."""

    def __init__(self) -> None:
        self.text = ""
        self.finish = ""
        self.usage = ChatUsage()
        self.tool_calls: list[dict[str, Any]] = []
        self._rest = b""
        self._over = False

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        texts = [text for line in lines if line.startswith(b"data:") and (text := self._event(line[5:].strip()))]
        self.text += "".join(texts)
        return texts

    def end(self) -> None:
        """No more bytes come. Raises Unavailable where the stream was not over."""
        if not self._over:
            raise Unavailable(
                "The answer broke off: the server closed the connection in its middle.",
                code="stream_broken",
                next_step="Ask again; `openmaas logs DEPLOYMENT` tells what happened.",
            )

    def _event(self, data: bytes) -> str:
        if data == _END:
            self._over = True
            return ""
        chunk = decode(Response(200, {}, data), _Chunk)
        if chunk.error is not None:
            raise OpenMaaSError(chunk.error.message, code=chunk.error.code)
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices[:1]:
            self.finish = choice.finish_reason or self.finish
            self.tool_calls += choice.delta.tool_calls or ()
            return choice.delta.content or ""
        return ""


class _Stream(_Reading):
    """`text`, `finish`, `tool_calls` and `usage` are there when the iteration is over; `text` grows while it goes on."""

    def __init__(self, client: Any, request: Request) -> None:
        super().__init__()
        self._client = client
        self._request = request


class ChatStream(_Stream):
    """Iterate over the pieces of an answer. `close`, or leaving its `with`, stops it on the server too."""

    _pieces: Any = None

    def __iter__(self) -> Iterator[str]:
        if self._pieces is None:
            self._pieces = self._read()
        return self._pieces  # type: ignore[no-any-return]

    def _read(self) -> Iterator[str]:
        for data in self._client._transport.stream(self._request):
            yield from self.feed(data)
        self.end()

    def close(self) -> None:
        if self._pieces is not None:
            self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """Iterate with `async for`; leave it within `async with`, so that the server stops too."""

    _pieces: Any = None

    def __aiter__(self) -> AsyncIterator[str]:
        if self._pieces is None:
            self._pieces = self._read()
        return self._pieces  # type: ignore[no-any-return]

    async def _read(self) -> AsyncIterator[str]:
        async with aclosing(self._client._transport.stream(self._request)) as pieces:
            async for data in pieces:
                for text in self.feed(data):
                    yield text
        self.end()

    async def close(self) -> None:
        if self._pieces is not None:
            await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class streamed(Generic[P]):  # noqa: N801  (a decorator)
    """A method whose body gives a Request. A blocking client gives ChatStream, an asynchronous one AsyncChatStream."""

    def __init__(self, function: Callable[Concatenate[Any, P], Request]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Request]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, ChatStream]: ...
    @overload
    def __get__(self, instance: Asynchronous, owner: type) -> Callable[P, AsyncChatStream]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        function = self._function
        if instance is None:
            return function
        kind = ChatStream if isinstance(instance, Blocking) else AsyncChatStream

        @functools.wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return kind(instance, function(instance, *args, **kwargs))

        return bound


class Generation(Session):
    @operation
    def chat(
        self,
        /,
        deployment: str,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> Operation[ChatAnswer]:
        """The deployment's answer to a conversation, whole.

        messages: {"role", "content"} each, or a text, which stands for one message of the user. What is left open, the model's
        own files decide. timeout: seconds for the whole answer; the deployment's own without. more: any other parameter of
        OpenAI's chat completions (stop, tools, response_format …).

        Raises InvalidInput, NotFound (no such deployment), Unavailable (nothing is ready, or too many wait), LimitReached.
        """
        values = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, **more}
        response: Response = yield _request(deployment, messages, values, timeout)
        check(response)
        answer = decode(response, _Chunk)
        if not answer.choices:
            raise OpenMaaSError("The server's answer has no choices.", code="bad_answer")
        choice = answer.choices[0]
        return ChatAnswer(
            text=choice.message.content or "",
            finish=choice.finish_reason or "",
            usage=answer.usage or ChatUsage(),
            tool_calls=choice.message.tool_calls or [],
        )

    @streamed
    def stream_chat(
        self,
        /,
        deployment: str,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        **more: Any,
    ) -> Request:
        """The deployment's answer to a conversation, piece by piece; the arguments are those of `chat`.

            with client.stream_chat("writer", "What does shutil.copyfile do?") as answer:
                for piece in answer:
                    print(piece, end="", flush=True)
            print(answer.usage.completion_tokens)

        It is sent when the iteration begins. Raises what `chat` raises, then or in the middle of it.
        """
        values = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, **more}
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        return _request(deployment, messages, values | streaming, timeout)


def _request(
    deployment: str, messages: str | Sequence[Mapping[str, Any]], values: Mapping[str, Any], timeout: float | None
) -> Request:
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    given = {name: value for name, value in values.items() if value is not None}
    headers = {"content-type": "application/json"}
    if timeout is not None:
        headers["x-request-timeout"] = f"{timeout:.6f}"
    return Request(
        "POST",
        ("v1", "chat", "completions"),
        door="gateway",
        headers=headers,
        body=msgspec.json.encode({"model": deployment, "messages": said, **given}),
        timeout=3600.0 if timeout is None else timeout + _MARGIN,
    )
