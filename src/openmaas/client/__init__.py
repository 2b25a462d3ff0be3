"""The Python client, blocking and asynchronous, with the same methods.

    client = openmaas.Client()                       # the server of OPENMAAS_HOME, or of OPENMAAS_URL
    client.push(estimator, name="digits", sample=X)
    client.deploy("digits")
    client.predict("digits", X[:3])["label"]         # numpy arrays by output name
    client.chat("writer", "Hello").text              # of a deployment that generates text

    async with openmaas.AsyncClient() as client:
        await client.predict("digits", X[:3])

Every error is an openmaas.OpenMaaSError (openmaas.core.errors draws the tree).
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from openmaas.client.administration import Administration
from openmaas.client.asynchronous import AsyncTransport
from openmaas.client.comparisons import Comparisons
from openmaas.client.conversions import Conversions
from openmaas.client.datasets import Datasets
from openmaas.client.deployments import DeployFailed, Deployments, Logs
from openmaas.client.driver import Asynchronous, AsyncPages, Blocking, Pages, Sends, SendsBlocking
from openmaas.client.evaluations import Evaluations
from openmaas.client.gates import Gates
from openmaas.client.generation import AsyncChatStream, ChatAnswer, ChatStream, Generation
from openmaas.client.jobs import JobFailed, Jobs
from openmaas.client.optimizations import Optimizations
from openmaas.client.predictions import Predictions
from openmaas.client.registry import Registry
from openmaas.client.server import Server, find_server, home_path, read_run_file
from openmaas.client.uploads import Progress, Uploads

__all__ = [
    "AsyncChatStream", "AsyncClient", "AsyncPages", "ChatAnswer", "ChatStream", "Client", "DeployFailed", "JobFailed", "Logs",
    "Pages", "Progress", "Server", "find_server", "home_path", "read_run_file",
]  # fmt: skip


class Client(
    Blocking,
    Registry,
    Uploads,
    Datasets,
    Deployments,
    Gates,
    Jobs,
    Conversions,
    Evaluations,
    Comparisons,
    Optimizations,
    Predictions,
    Generation,
    Administration,
):
    """Speaks to one server, blocking. Threads may share a client.

    url, gateway_url: of control and of the gateway (OPENMAAS_URL, OPENMAAS_GATEWAY_URL). api_key: OPENMAAS_API_KEY.
    ca: PEM file that the server's certificate is checked with (OPENMAAS_CA). home: data folder of a local server
    (OPENMAAS_HOME), which is asked for all that is not given. transport: something else to send requests with, for tests.

    Raises Unavailable when no URL is given and no server runs for that home.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        gateway_url: str | None = None,
        api_key: str | None = None,
        ca: str | None = None,
        home: str | os.PathLike[str] | None = None,
        transport: SendsBlocking | None = None,
    ) -> None:
        server = find_server(url, gateway_url, api_key, ca, home)
        if transport is None:
            from openmaas.client.blocking import BlockingTransport

            transport = BlockingTransport(server)
        super().__init__(server, transport)

    def close(self) -> None:
        """Close the connections. The client may be used again."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient(
    Asynchronous,
    Registry,
    Uploads,
    Datasets,
    Deployments,
    Gates,
    Jobs,
    Conversions,
    Evaluations,
    Comparisons,
    Optimizations,
    Predictions,
    Generation,
    Administration,
):
    """Speaks to one server from an event loop; the methods and arguments of Client, awaited."""

    def __init__(
        self,
        url: str | None = None,
        *,
        gateway_url: str | None = None,
        api_key: str | None = None,
        ca: str | None = None,
        home: str | os.PathLike[str] | None = None,
        transport: Sends | None = None,
    ) -> None:
        server = find_server(url, gateway_url, api_key, ca, home)
        super().__init__(server, transport or AsyncTransport(server))

    async def close(self) -> None:
        """Close the connections. The client may be used again."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
