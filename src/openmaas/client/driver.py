"""Runs operations: blocking on the caller's thread, or on an event loop. Each operation is written once, for both.

class Models(Session):
    @operation
    def show(self, reference: str) -> Operation[VersionInfo]: ...

Client().show("digits")               VersionInfo
await AsyncClient().show("digits")    VersionInfo
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from openmaas.client.answers import fetch
from openmaas.client.server import Server
from openmaas.client.steps import Operation, Request, Response, Sleep, Step, Work
from openmaas.core.resources import Page
from openmaas.core.types import Signature

P = ParamSpec("P")
T = TypeVar("T")


class Session:
    """What all operations share: the server they speak to, and what deployments said of their inputs and outputs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._signatures: dict[tuple[str, str], Signature] = {}


class SendsBlocking(Protocol):
    def send(self, request: Request) -> Response: ...
    def stream(self, request: Request) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Sends(Protocol):
    async def send(self, request: Request) -> Response: ...
    def stream(self, request: Request) -> AsyncGenerator[bytes, None]: ...
    async def close(self) -> None: ...


class Blocking(Session):
    """Runs operations on the caller's thread."""

    def __init__(self, server: Server, transport: SendsBlocking) -> None:
        super().__init__(server)
        self._transport = transport

    def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    result = self._perform(step)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            operation.close()

    def _perform(self, step: Step) -> Any:
        match step:
            case Request():
                return self._transport.send(step)
            case Sleep(seconds):
                return time.sleep(seconds)
            case Work(call):
                return call()


class Asynchronous(Session):
    """Runs operations on the caller's event loop; what blocks goes to a thread."""

    def __init__(self, server: Server, transport: Sends) -> None:
        super().__init__(server)
        self._transport = transport

    async def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                try:
                    result = await self._perform(step)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            operation.close()

    async def _perform(self, step: Step) -> Any:
        import asyncio  # a command never runs this, and saves 20 ms

        match step:
            case Request():
                return await self._transport.send(step)
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Work(call):
                return await asyncio.to_thread(call)


# ── one method, two clients ──────────────────────────────────────────────────────────────────────────────────────────


class operation(Generic[P, T]):  # noqa: N801  (a decorator)
    """A method whose body is an Operation[T]. A blocking client returns T, an asynchronous one awaits it."""

    def __init__(self, function: Callable[Concatenate[Any, P], Operation[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Operation[T]]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Asynchronous, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        function = self._function
        if instance is None:
            return function

        @functools.wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._run(function(instance, *args, **kwargs))

        return bound


class Listing(Generic[T]):
    """A listing that the server pages: where it is, and what its rows are."""

    def __init__(self, kind: type[Page[T]], /, *parts: str, page_size: int | None = None, **query: Any) -> None:
        self._kind = kind
        self._parts = parts
        self._query = {**query, "limit": page_size}

    def page(self, after: str | None = None) -> Operation[Page[T]]:
        return (yield from fetch(Request("GET", self._parts, {**self._query, "after": after}), self._kind))


class Pages(Generic[T]):
    """Iterate over all rows; the next page is asked for when the last one is used up. `page` gives one page and the total."""

    def __init__(self, client: Blocking, listing: Listing[T]) -> None:
        self._client = client
        self._listing = listing

    def page(self, after: str | None = None) -> Page[T]:
        """The page after `after` (a page's `next`), the first one without."""
        return self._client._run(self._listing.page(after))

    def __iter__(self) -> Iterator[T]:
        after: str | None = None
        while True:
            page = self.page(after)
            yield from page.items
            if (after := page.next) is None:
                return


class AsyncPages(Generic[T]):
    """Iterate over all rows with `async for`; `page` gives one page and the total."""

    def __init__(self, client: Asynchronous, listing: Listing[T]) -> None:
        self._client = client
        self._listing = listing

    async def page(self, after: str | None = None) -> Page[T]:
        """The page after `after` (a page's `next`), the first one without."""
        return await self._client._run(self._listing.page(after))

    async def __aiter__(self) -> AsyncIterator[T]:
        after: str | None = None
        while True:
            page = await self.page(after)
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return


class listing(Generic[P, T]):  # noqa: N801  (a decorator)
    """A method that returns a Listing[T]. A blocking client gives Pages[T], an asynchronous one AsyncPages[T]."""

    def __init__(self, function: Callable[Concatenate[Any, P], Listing[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Listing[T]]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, Pages[T]]: ...
    @overload
    def __get__(self, instance: Asynchronous, owner: type) -> Callable[P, AsyncPages[T]]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        function = self._function
        if instance is None:
            return function
        pages = Pages if isinstance(instance, Blocking) else AsyncPages

        @functools.wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return pages(instance, function(instance, *args, **kwargs))

        return bound
