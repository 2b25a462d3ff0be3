"""The model as a TorchServe handler; TorchServe joins requests before it calls it."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.serving.engine import Engine, join


class Handler:
    def initialize(self, context: Any) -> None:
        self.engine = Engine()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """One answer for each of the joined requests."""
        samples = [request["body"] for request in data]
        decoded = [json.loads(s) if isinstance(s, str | bytes | bytearray) else s for s in samples]
        rows = self.engine.run(join([self.engine.read(sample) for sample in decoded]))
        return [{self.engine.output: [row]} for row in rows.tolist()]
