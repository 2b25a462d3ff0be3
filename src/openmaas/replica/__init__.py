"""One model version in one process: its server, its batcher, its counts."""

from openmaas.replica.process import serve

__all__ = ["serve"]
