"""The stack that this thread's signal handlers run on. On Linux only; elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_DISABLE: Final = 2  # SS_DISABLE


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Let them run on the thread's usual stack again.

    OpenVINO's CPU plugin gives the thread that loads it a signal stack of its own, and unmaps that when the plugin goes, in
    whichever thread that happens: from then on the next signal ends the process with a segmentation fault.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _DISABLE, 0)), None)
