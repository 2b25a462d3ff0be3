"""A server on this machine that answers POST /v1/chat/completions as it is told, in chunks, and keeps what it was asked."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BREAK = b"BREAK"
"""Among the pieces: the connection is closed there."""
WAIT = b"WAIT"
"""Among the pieces: half a minute in which nothing comes, unless the caller leaves."""


def event(**values: Any) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def said(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], usage=None)


def answer(*texts: str, finish: str = "stop") -> list[bytes]:
    """A whole stream: the role, the texts, the end, and the usage."""
    count = len(texts)
    return [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
        *map(said, texts),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}]),
        event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}),
        b"data: [DONE]\n\n",
    ]


class ChatServer:
    """pieces: what each stream gives, one chunk each. status and body: an answer that is no stream. left: set when a caller
    has closed its connection in the middle."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = answer("Hello")
        self.status, self.body = 200, b""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[int] = set()
        self.left = threading.Event()
        self.url = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing of a caller who leaves: the words would be among those of the program that is tested."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    told = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            told.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))) | {"path": self.path})
            told.headers.append({name.lower(): value for name, value in self.headers.items()})
            told.connections.add(self.client_address[1])
            if told.body:
                self._begin(("content-length", str(len(told.body))))
                self.wfile.write(told.body)
                return
            self._begin(("transfer-encoding", "chunked"), ("content-type", "text/event-stream"))
            try:
                self._stream()
            except OSError:
                told.left.set()
                self.close_connection = True

        def _begin(self, *headers: tuple[str, str]) -> None:
            self.send_response(told.status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()

        def _stream(self) -> None:
            for piece in told.pieces:
                if piece == BREAK:
                    self.close_connection = True
                    return
                if piece == WAIT:
                    self._wait()
                else:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def _wait(self) -> None:
            self.connection.settimeout(30)
            if not self.connection.recv(1):
                raise ConnectionResetError

        def log_message(self, *_: Any) -> None: ...

    server = _Server(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
