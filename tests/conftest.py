"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell lets what it runs in the background ignore Ctrl-C, and so would the programs under test, to which tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
