"""The supervisor's line to control: what should run comes in, what runs goes out. Mended whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from openmaas.core.contracts import ControlCall, Desired, Observed, encode
from openmaas.core.errors import LinkLost, OpenMaaSError
from openmaas.core.link import Link, connect
from openmaas.core.log import get_logger
from openmaas.fleet.keeper import first_of

_REPORT_EVERY = 2.0
_MEND_FROM, _MEND_TO = 0.05, 1.0
_PEER = "supervisor"

_log = get_logger("control line")


class ControlLine:
    """Follows Desired and reports Observed: at once when `changed` is set, and every 2 s.

    While control is away nothing changes; when it is back it gets Observed whole.
    """

    def __init__(
        self, address: str, apply: Callable[[Desired], None], observe: Callable[[], Observed], changed: asyncio.Event
    ) -> None:
        self._address = address
        self._apply = apply
        self._observe = observe
        self._changed = changed

    async def run(self) -> None:
        """Until cancelled."""
        pause = _MEND_FROM
        while True:
            with contextlib.suppress(LinkLost):
                link = await connect(self._address)
                pause = _MEND_FROM
                await self._talk(link)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MEND_TO)

    async def _talk(self, link: Link) -> None:
        try:
            await first_of(self._follow(link), self._report(link))
        except OpenMaaSError as error:
            _log.warning("the line to control broke", cause=error.message)
        except Exception:  # a mistake in one report must not cut the supervisor off from control for good
            _log.exception("the line to control failed")
        finally:
            link.abort()

    async def _follow(self, link: Link) -> None:
        async for chunk in link.stream(encode(ControlCall("watch_desired", peer=_PEER))):
            self._apply(msgspec.msgpack.decode(chunk, type=Desired))

    async def _report(self, link: Link) -> None:
        while True:
            self._changed.clear()
            await link.call(encode(ControlCall("observe", peer=_PEER)), encode(self._observe()))
            try:
                async with asyncio.timeout(_REPORT_EVERY):
                    await self._changed.wait()
            except TimeoutError:
                continue
