"""A child for tests, started as a process: `python child.py ADDRESS [BEHAVIOUR …]`. It answers pings as a replica does.

deaf          listens, and never answers
answered=N    has answered N requests from the start
stalled=S     its batch has run for S seconds
quiet         does not listen
stubborn      ignores SIGTERM
exit=N        ends with that status once it is ready
cause=CODE    prints a cause and ends with status 3
say=TEXT      writes a line
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from openmaas.core.contracts import Health, encode
from openmaas.core.link import LinkServer


def behaviours(words: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


async def main(address: str, told: dict[str, str]) -> None:
    health = Health(ready=True, answered=int(told.get("answered", 0)), stalled=float(told.get("stalled", 0)))
    server = LinkServer(lambda call: call.answer(b""), health=lambda: encode(health))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if "stubborn" in told else stop.set)
    if "deaf" in told:
        await loop.create_unix_server(asyncio.Protocol, address.removeprefix("unix:"))
    elif "quiet" not in told:
        await server.listen(address)
    if "exit" in told:
        while not server.connections:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        raise SystemExit(int(told["exit"]))
    await stop.wait()
    await server.drain(5)


if __name__ == "__main__":
    told = behaviours(sys.argv[2:])
    if "say" in told:
        print(told["say"], file=sys.stderr, flush=True)
    if "cause" in told:
        print(json.dumps({"openmaas_cause": {"code": told["cause"], "message": "It said so."}}), file=sys.stderr, flush=True)
        raise SystemExit(3)
    asyncio.run(main(sys.argv[1], told))
