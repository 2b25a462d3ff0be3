"""An end to Python code that takes too long."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from openmaas.core.errors import OpenMaaSError


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OpenMaaSError in the block after so long. Without effect outside of the main thread, where no signal arrives."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise OpenMaaSError(f"It took longer than {seconds:g} s.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
