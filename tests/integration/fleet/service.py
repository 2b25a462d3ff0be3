"""A control, a gateway or a replica for tests of the supervisor: `python service.py KIND FOLDER PORT LINK`.

Each writes a line into FOLDER/order when it starts and when SIGTERM has ended it. Control tells FOLDER/desired to whoever
watches, and writes each Observed to FOLDER/observed. A kind that has a file FOLDER/broken-KIND ends at once with what it says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from openmaas.core.contracts import ControlCall, Health, encode
from openmaas.core.link import IncomingCall, LinkServer
from openmaas.fleet.lifeline import PARENT_VARIABLE, die_with_parent


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    writer.close()


def link_handler(folder: Path) -> Callable[[IncomingCall], None]:
    sending: list[asyncio.Future[None]] = []

    def handle(call: IncomingCall) -> None:
        if msgspec.msgpack.decode(call.header, type=ControlCall).operation == "observe":
            (folder / "observed.new").write_bytes(call.payload)
            (folder / "observed.new").replace(folder / "observed")
            call.answer(b"")
        else:
            sending.append(asyncio.ensure_future(call.chunk((folder / "desired").read_bytes())))

    return handle


async def main(kind: str, folder: Path, port: int, address: str) -> None:
    order = (folder / "order").open("a", buffering=1)
    order.write(f"start {kind} {os.getpid()}\n")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if port:
        await asyncio.start_server(answer_http, "127.0.0.1", port)
    link = LinkServer(link_handler(folder), health=lambda: encode(Health(ready=True, answered=1)))
    if address:
        await link.listen(address)
    await stop.wait()
    await asyncio.sleep(0.1)
    order.write(f"end {kind}\n")
    link.close()


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    broken = folder / f"broken-{kind}"
    if broken.exists():
        raise SystemExit(broken.read_text())
    asyncio.run(main(kind, folder, int(sys.argv[3]), sys.argv[4]))
