"""The model behind BentoML with its adaptive batching.

A batchable API takes one parameter: the list of samples that were joined.
"""

from __future__ import annotations

from typing import Any

import bentoml

from benchmarks.serving.engine import MAX_BATCH, Engine, join


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.engine = Engine()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, samples: list[dict[str, Any]]) -> list[Any]:
        batch = join([self.engine.read(sample) for sample in samples])
        return list(self.engine.run(batch).tolist())
