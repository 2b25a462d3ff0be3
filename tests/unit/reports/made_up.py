"""A comparison with figures of nobody."""

from __future__ import annotations

from typing import Any

from openmaas.core.evaluations import (
    Agreement,
    ChangedRow,
    ClassChange,
    Entrant,
    Estimate,
    Figures,
    Speed,
    VersionComparison,
)  # fmt: skip
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.pareto import judged
from openmaas.tasks.previews import as_png


def figures(size: int, p50: float, rate: float) -> Figures:
    return Figures(
        choice=EngineChoice(engine="onnxruntime", artifact=Artifact(kind="onnx", entry="model.onnx"), threads=2),
        library="onnxruntime 1.31.1",
        size=size,
        memory=90_000_000,
        load=0.2,
        speeds=(
            Speed(batch=1, p50=p50, p99=2 * p50, rate=1 / p50, calls=900),
            Speed(batch=32, p50=32 / rate, p99=64 / rate, rate=rate, calls=90),
        ),
        cost=1.5,
    )


def entrant(version: str, size: int, p50: float, rate: float, accuracy: float, **more: Any) -> Entrant:
    lost = 0.98 - accuracy
    first = not lost
    return Entrant(
        version=version,
        figures=figures(size, p50, rate),
        metrics={"accuracy": Estimate(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.01)},
        difference={} if first else {"accuracy": Estimate(value=-lost, low=-lost - 0.004, high=-lost + 0.004)},
        loss=Estimate(value=lost, low=lost - 0.004 * (not first), high=lost + 0.004 * (not first)),
        agreement=None if first else Agreement(rows=360, max_abs_diff=0.01, top1=0.99, cosine=0.999, mean_cosine=0.9999),
        **more,
    )


def comparison(name: str = "digits:3", label: str = "prune → quantize", text: str = "seven") -> VersionComparison:
    import numpy as np

    image = as_png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    changed = (
        ChangedRow(row=4, truth=text, before=text, after="1", preview=image),
        ChangedRow(row=9, truth="1", before=text, after="1", preview=text),
    )
    classes = (ClassChange(name=text, rows=30, before=0.97, after=0.9), ClassChange(name="1", rows=30, before=0.9, after=0.95))
    made = VersionComparison(
        entrants=(
            entrant("digits:1", 1_000_000, 1e-3, 5000, 0.98),
            entrant("digits:2", 1_100_000, 1.5e-3, 3000, 0.95),
            entrant(name, 90_000, 0.2e-3, 30_000, 0.976, label=label, classes=classes, changed=changed, changed_rows=7),
        ),
        dataset="digits-test:1",
        task="classification",
        metric="accuracy",
        processor=Processor(model="Some CPU", cores=2),
        libraries={"onnxruntime": "1.31.1"},
        rounds=5,
        seed=7,
        seconds=61.0,
        notes=(f"A note on {text}.",),
    )
    return judged(made, 0.01)
