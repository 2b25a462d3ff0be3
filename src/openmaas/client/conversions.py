"""Convert a version to another kind of artifact, compare it with its source again, measure its engines: all are jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Session, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Work
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.resources import JobInfo, JobRequest, VersionInfo

MAX_DATA = 512 * 1024
"""Bytes of given rows: what a job's arguments may take with them. More rows show no more."""


class Conversions(Session):
    @operation
    def convert(self, reference: str, to: str, weights: str = "") -> Operation[JobInfo]:
        """Convert a version into another kind of artifact: onnx, openvino, torchscript, torch-export or tflite, and one that
        generates text to openvino-genai.

        weights: of what generates text: bf16, int8, int4, or auto for the fastest that answers as the source does.
        Returns the job at once; `wait_job(job.id).result["version"]` is the new version, registered only when its answers are
        those of the source. Raises NotFound, InvalidInput.
        """
        return (yield from _submit("convert", reference, {"to": to, "weights": weights} if weights else {"to": to}))

    @operation
    def parity(self, reference: str, data: Any = None) -> Operation[JobInfo]:
        """Compare every engine that can run a version with its source again.

        data: rows as the engine takes them (an array, arrays by input name, or the path of a .npy, .npz, CSV or JSON file); the
        sample that was kept with the version without. Returns the job at once; the comparisons are in its result.
        """
        arguments: dict[str, Any] = {}
        if data is not None:
            arguments["data"] = yield Work(lambda: _tensors(data))
        return (yield from _submit("parity", reference, arguments))

    @operation
    def measure(self, reference: str, *, seconds: float = 60.0) -> Operation[JobInfo]:
        """Measure again which engine runs a version fastest on the server; deployments with the engine `auto` then follow it.

        seconds: that it may take. Returns the job at once; the figures are in its result, and in `show(reference).measurement`.
        """
        return (yield from _submit("measure", reference, {"seconds": float(seconds)}))


def _submit(kind: str, reference: str, arguments: dict[str, Any]) -> Operation[JobInfo]:
    version = yield from fetch(Request("GET", (*API, "versions", reference)), VersionInfo)
    body = msgspec.json.encode(JobRequest(kind=kind, arguments={"version": f"{version.model}:{version.number}", **arguments}))
    headers = {"content-type": "application/json"}
    return (yield from fetch(Request("POST", (*API, "jobs"), headers=headers, body=body), JobInfo))


def _tensors(data: Any) -> dict[str, Any]:
    """Each array by its name (empty for a single one) as plain data."""
    import numpy as np

    from openmaas.core.datatypes import datatype_name, to_text
    from openmaas.formats.sample import UNNAMED, read_sample

    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.is_file():
            raise InvalidInput(f"There is no file {str(path)!r}.", code="no_such_file")
        arrays = read_sample(path)
    elif isinstance(data, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in data.items()}
    else:
        arrays = {UNNAMED: np.asarray(data)}
    tensors = {
        name: {
            "datatype": datatype_name(array.dtype),
            "shape": list(array.shape),
            "data": (to_text(array) if array.dtype.kind == "O" else array).ravel().tolist(),
        }
        for name, array in arrays.items()
    }
    size = len(msgspec.json.encode(tensors))
    if size > MAX_DATA:
        raise TooLarge(f"The rows take {size} bytes as JSON; at most {MAX_DATA} go with a job.", next_step="Give fewer rows.")
    return tensors
