"""What a long-lived process does about memory once it has started."""

from __future__ import annotations

import gc


def settle() -> None:
    """Take what start-up made out of the collector's sight: a full collection among requests then has little to walk."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
