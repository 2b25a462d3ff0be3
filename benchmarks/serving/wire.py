"""The two JSON bodies in use: the Open Inference Protocol and plain named tensors."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.case import Case

DATATYPES = {"float32": "FP32", "int64": "INT64"}
Answer = NDArray[np.float64]


def open_inference(case: Case) -> bytes:
    """A V2 request for one sample."""
    tensors = json.loads(plain(case))
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": DATATYPES[array.dtype.name],
            "data": tensors[name],
        }
        for name, array in case.inputs.items()
    ]
    for tensor in inputs:
        # Flat and row-major, which every V2 server reads.
        tensor["data"] = [value for row in tensor["data"] for value in row]
    return json.dumps({"inputs": inputs}).encode()


def read_open_inference(body: bytes) -> Answer:
    (output,) = json.loads(body)["outputs"]
    return np.asarray(output["data"], dtype=np.float64).reshape(output["shape"])


def read_predictions(body: bytes) -> Answer:
    """The classes' probabilities in OpenMaaS's own answer, in the order of the classes' names."""
    return np.asarray(
        [
            [entry["probability"] for entry in sorted(row["top"], key=lambda entry: str(entry["label"]))]
            for row in json.loads(body)["predictions"]
        ]
    )


def plain(case: Case) -> bytes:
    """`{"NAME": [[…]]}` for one sample."""
    return json.dumps(case.samples).encode()


def others(case: Case, body: bytes) -> tuple[bytes, ...]:
    """The bodies of the case's other samples, in the form that `body` has."""
    if not case.others:
        return ()
    form = plain if body == plain(case) else open_inference
    return tuple(form(other) for other in case.others)


def record(case: Case) -> bytes:
    """One row of a table by column names."""
    return json.dumps(case.record).encode()


def read_plain(body: bytes) -> Answer:
    """The rows of `{"NAME": [[…]]}`."""
    ((_, rows),) = json.loads(body).items()
    return np.atleast_2d(np.asarray(rows, dtype=np.float64))
