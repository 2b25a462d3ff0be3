"""The engine in a loop, with no server around it: the ceiling of every row.

Usage: `python -m benchmarks.serving.alone SAMPLE_FILE SECONDS`, with the variables of
`engine.Engine`. Prints rows a second by batch size as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.engine import Engine

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def rows_per_second(engine: Engine, batch: int, seconds: float) -> float:
    sample = json.loads(Path(sys.argv[1]).read_text())["inputs"]
    one = engine.read({name: tensor["data"] for name, tensor in sample.items()})
    inputs = {name: np.repeat(rows, batch, axis=0) for name, rows in one.items()}
    engine.run(inputs)
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        engine.run(inputs)
        calls += 1
    return calls * batch / elapsed


def main() -> None:
    engine, seconds = Engine(), float(sys.argv[2])
    rates: dict[int, float] = {}
    for batch in BATCHES:
        rates[batch] = rows_per_second(engine, batch, seconds)
        # Far beyond the best batch a slow model would only take time.
        if rates[batch] < 0.7 * max(rates.values()):
            break
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
