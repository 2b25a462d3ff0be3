"""The engine that OpenMaaS chose, alone in a loop: the ceiling of its own row. Runs with the Python that has `openmaas`.

    python chosen.py keep DEPLOYMENT FOLDER          what serves the deployment, and its files
    python chosen.py run FOLDER SECONDS [PICTURE]    prints rows a second by batch size as JSON

With a picture, each row is decoded and normalised first, on as many threads as there are cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from openmaas import Client
from openmaas.core.manifest import Manifest
from openmaas.engines import EngineSpec, create_engine, engine_choices
from openmaas.formats.sample import fit, read_sample, split_expected, stretch
from openmaas.processing import open_processing

BATCHES = (1, 2, 4, 8, 16, 32)


def keep(deployment: str, folder: Path) -> None:
    client = Client()
    info = client.deployment(deployment)
    reference = f"{info.model}:{info.version}"
    client.download(reference, folder / "files")
    assert info.engine is not None
    told = {"manifest": client.show(reference).manifest, "engine": msgspec.to_builtins(info.engine)}
    (folder / "chosen.json").write_bytes(msgspec.json.encode(told))


def rates(folder: Path, seconds: float, picture: Path | None) -> dict[int, float]:
    told = json.loads((folder / "chosen.json").read_text())
    manifest, files = msgspec.convert(told["manifest"], Manifest), folder / "files"
    choice = next(one for one in engine_choices(manifest) if one.label == told["engine"]["name"])
    cores = len(os.sched_getaffinity(0))
    engine = create_engine(choice.engine)
    engine.load(EngineSpec(folder=files, manifest=manifest, threads=told["engine"]["threads"] or cores, choice=choice))
    engine.warm()
    if picture is None:
        assert manifest.sample is not None
        arrays, _ = split_expected(read_sample(files / manifest.sample))
        inputs = fit(arrays, manifest.signature.inputs)
        return {batch: _rate(lambda batch=batch: engine.run(stretch(inputs, batch)), batch, seconds) for batch in BATCHES}
    processor, image = open_processing(manifest, files), picture.read_bytes()
    with ThreadPoolExecutor(cores) as pool:

        def decoded(batch: int) -> Any:
            rows = list(pool.map(lambda _: processor.prepare(np.array([image], object)).inputs, range(batch)))
            return engine.run({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

        return {batch: _rate(lambda batch=batch: decoded(batch), batch, seconds) for batch in BATCHES}


def _rate(call: Any, rows: int, seconds: float) -> float:
    call()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return calls * rows / elapsed


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        keep(sys.argv[2], Path(sys.argv[3]))
    else:
        print(json.dumps(rates(Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)))
