"""The first-class fake: a job whose behaviour is written in its arguments, for tests of everything around jobs.

version     its files are fetched first
seconds     that it works, telling its progress twenty times a second
lines       that it writes to its log
push        the name of a model that it pushes (a dummy)
allocate    bytes that it takes and touches
fail        it fails with this text
exit        its process ends at once with this status, as a segmentation fault would
stubborn    it neither tells progress nor heeds SIGTERM
alone       it holds the machine's measuring lock while it works
note        nothing: it makes two jobs different
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import Any

import msgspec

from openmaas.core.errors import Refused
from openmaas.core.jobs import DummyArguments
from openmaas.tasks.base import Job

_STEP = 0.05
_TENSOR = {"datatype": "FP32", "shape": [-1, 2]}


def run(job: Job) -> dict[str, Any]:
    """When it began and ended to work (Unix seconds), its process, and what came of the rest."""
    told = msgspec.convert(job.arguments, DummyArguments)
    result: dict[str, Any] = {"pid": os.getpid()}
    if told.version:
        manifest, folder = job.files(told.version)
        result["files"] = sum((folder / file.path).is_file() for file in manifest.files)
    for number in range(told.lines):
        job.log(f"line {number}")
    if told.allocate:
        result["allocated"] = len(bytearray(b"\x01") * told.allocate)
    with job.alone() if told.alone else contextlib.nullcontext():
        result |= _work(job, told)
    if told.exit is not None:
        os._exit(told.exit)
    if told.fail:
        raise Refused(told.fail, code="dummy_failed", next_step="Do not ask it to fail.")
    return result | (_push(job, told.push) if told.push else {})


def _work(job: Job, told: DummyArguments) -> dict[str, Any]:
    if told.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    began = time.time()
    while (passed := time.time() - began) < told.seconds:
        if not told.stubborn:
            job.progress("working", passed, told.seconds)
        time.sleep(_STEP)
    return {"began": began, "ended": time.time()}


def _push(job: Job, name: str) -> dict[str, Any]:
    folder = job.scratch / name
    folder.mkdir()
    signature = {"inputs": [{"name": "X", **_TENSOR}], "outputs": [{"name": "Y", **_TENSOR}]}
    (folder / "openmaas.yaml").write_text(json.dumps({"format": "dummy", "signature": signature}))
    pushed = job.client.push(folder, name=name)
    return {"pushed": f"{pushed.version.model}:{pushed.version.number}", "by": pushed.version.created_by}
