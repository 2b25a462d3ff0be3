"""HTTP/1.1 on one event loop: bytes to requests and answers to bytes, bounded in size and time. llhttp (httptools) parses.

What a request means is the door's business; this file knows only connections. One request of a connection is worked on at a
time; those that follow it in the pipeline wait. A client that sends too slowly, or does not read its answer, is closed.
"""

from __future__ import annotations

from openmaas.gateway.http.connection import MAX_FIELDS, MAX_HEAD, HttpConnection, too_large
from openmaas.gateway.http.request import Application, Request
from openmaas.gateway.http.server import HttpServer

__all__ = ["MAX_FIELDS", "MAX_HEAD", "Application", "HttpConnection", "HttpServer", "Request", "too_large"]
