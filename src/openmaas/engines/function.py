"""A Python function as a model: code that an admin has approved by the digest of all its files.

The entry is a module with

    def predict(inputs: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]     one call; BYTES are object arrays of bytes
    def load(folder: pathlib.Path) -> None                                        optional, called once with the files' folder

It may import modules beside it. `load` keeps what it reads in the module's own variables.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype, to_bytes
from openmaas.core.errors import EngineFailed, OpenMaaSError, Refused, without_paths
from openmaas.core.log import get_logger
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines.base import Engine, EngineSpec, Tensors

_MODULE = "openmaas_function"
_COMPILED = frozenset({".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth", ".egg", ".whl"})


def code_digest(folder: Path, entry: str) -> str:
    """SHA-256, in hex, of what is run: the entry's path and every .py file's digest and path, a line each, sorted by path.

    Raises Refused for compiled code, which nobody could have read.
    """
    lines = [f"entry {entry}"]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _COMPILED:
            raise Refused(
                f"{relative!r} is compiled code; a function is Python source alone.",
                code="compiled_code",
                next_step="Leave it out, and install such libraries where the server runs.",
            )
        if path.suffix.lower() == ".py":
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {relative}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class FunctionEngine(Engine):
    """options of the artifact: `sha256`, the approved digest."""

    name = "function"
    kinds = frozenset({"function"})

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._predict: Callable[[Tensors], Any] | None = None

    def load(self, spec: EngineSpec) -> None:
        artifact = spec.chosen.artifact
        digest = code_digest(spec.folder, artifact.entry)
        if digest != artifact.options.get("sha256"):
            raise EngineFailed(f"The code is not what was approved: its digest is {digest}.", code="load_failed")
        self._predict = load_function(spec.folder, artifact.entry)
        self._spec = spec

    def run(self, inputs: Tensors) -> Tensors:
        assert self._spec is not None
        assert self._predict is not None
        return call_function(self._predict, inputs, self._spec.manifest.signature, self._spec.folder)

    def describe(self) -> dict[str, str]:
        return {"library": "python", "version": sys.version.partition(" ")[0], "device": "cpu", "threads": "1"}


def load_function(folder: Path, entry: str) -> Callable[[Tensors], Any]:
    """Run the module and its `load`; its `predict`. Raises EngineFailed with the type and the message of what it raised."""
    sys.dont_write_bytecode = True  # the folder is only read
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a file of theirs stands for no library of the server's
    spec = importlib.util.spec_from_file_location(_MODULE, folder / entry)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if (load := getattr(module, "load", None)) is not None:
            load(folder)
    except (Exception, SystemExit) as error:
        raise _told(error, "does not load", folder, code="load_failed") from None
    predict: Any = getattr(module, "predict", None)
    if not callable(predict):
        raise EngineFailed(f"{entry!r} defines no function 'predict'.", code="load_failed")
    return predict  # type: ignore[no-any-return]


def call_function(predict: Callable[[Tensors], Any], inputs: Tensors, signature: Signature, folder: Path) -> Tensors:
    """One call, and its answer held against the signature. Raises EngineFailed that names the output and what came."""
    try:
        answers = predict(inputs)
        if not isinstance(answers, Mapping):
            raise EngineFailed(f"The function gave a {type(answers).__name__} instead of a dict of arrays by output name.")
        return {spec.name: _output(spec, answers) for spec in signature.outputs}
    except OpenMaaSError:
        raise
    except (Exception, SystemExit) as error:
        raise _told(error, "cannot run this input", folder) from None


def _output(spec: TensorSpec, answers: Mapping[str, Any]) -> NDArray[Any]:
    if spec.name not in answers:
        raise EngineFailed(f"The function gave {', '.join(map(repr, answers)) or 'nothing'}, and no output {spec.name!r}.")
    array = np.asarray(answers[spec.name])
    dtype = numpy_dtype(spec.datatype)
    text = spec.datatype == "BYTES"
    if text != (array.dtype.kind in "OSU") or not (text or np.can_cast(array.dtype, dtype, "same_kind")):
        raise EngineFailed(f"The function gave {array.dtype} for output {spec.name!r}, which is {spec.datatype}.")
    fits = array.ndim == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True))
    if not fits:
        raise EngineFailed(
            f"The function gave the shape {list(array.shape)} for output {spec.name!r}, which has {list(spec.shape)}."
        )
    return to_bytes(array) if text else array.astype(dtype, copy=False)


def _told(error: BaseException, what: str, folder: Path, code: str | None = None) -> EngineFailed:
    """The error for callers, by type and message. Where in their file it arose is for the replica's log alone."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)]
    place = f"{Path(frames[-1].filename).relative_to(folder)}:{frames[-1].lineno}" if frames else ""
    said = without_paths(" ".join(str(error).split()))[:400]
    get_logger("engine").error("function_failed", error=type(error).__name__, message=said, place=place)
    return EngineFailed(f"The function {what}: {type(error).__name__}: {said}", code=code)
