"""Conversions that only TensorFlow can do, in an environment of its own: its interpreter runs scripts/tensorflow_convert.py."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openmaas.core.errors import InvalidInput, without_paths
from openmaas.core.manifest import Artifact
from openmaas.formats.converters import Conversion, Converter
from openmaas.formats.saved_model import scripts

_SCRIPT = Path(scripts.__file__).with_name("tensorflow_convert.py")
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_NOISE = ("I0000", "W0000", "WARNING:", "INFO:", "To enable", "2026-")
_ENDPOINT = "serving_default"


class _ByTensorFlow(Converter):
    environment = "tensorflow"
    reports: ClassVar[bool] = False
    """Whether TensorFlow's own answers are written, because no engine here gives the source's."""

    def convert(self, conversion: Conversion) -> Artifact:
        entry = f"model.{self.target}"
        with tempfile.TemporaryDirectory(prefix="openmaas-tensorflow-") as scratch:
            made = Path(scratch) / entry
            _run(conversion, self._request(conversion, made))
            self._check(conversion, made)
            for path in (made, made.with_name("expected.npz")):
                if path.exists():
                    conversion.output.joinpath(path.name).write_bytes(path.read_bytes())
        return Artifact(kind=self.target, entry=entry)

    def _request(self, conversion: Conversion, made: Path) -> dict[str, Any]:
        signature = conversion.manifest.signature
        sample = made.with_name("sample.npz")
        if self.reports:
            np.savez(sample, allow_pickle=False, **conversion.sample)
        return {
            "source": self.source,
            "target": self.target,
            "path": str(self._source(conversion, made.parent)),
            "output": str(made),
            "signature": conversion.artifact.options.get("signature", _ENDPOINT),
            "inputs": [spec.name for spec in signature.inputs],
            "outputs": [spec.name for spec in signature.outputs],
            "sample": str(sample) if self.reports else None,
            "parent": os.getpid(),
        }

    @abstractmethod
    def _source(self, conversion: Conversion, scratch: Path) -> Path:
        """What TensorFlow is to load, checked here to be harmless."""

    def _check(self, conversion: Conversion, made: Path) -> None:
        """Raises InvalidInput where the result does not take and give what the source does, by name."""
        signature = conversion.manifest.signature
        wanted = {spec.name for spec in (*signature.inputs, *signature.outputs)}
        if (given := _names(self.target, made)) != wanted:
            raise InvalidInput(
                f"TensorFlow gave the {self.target} file other names ({', '.join(sorted(given))[:200]}) than the source has "
                f"({', '.join(sorted(wanted))[:200]}).",
                code="conversion_failed",
            )


class _FromSavedModel(_ByTensorFlow):
    source = "saved-model"
    reports = True

    def _source(self, conversion: Conversion, scratch: Path) -> Path:
        from openmaas.formats.saved_model.file import read_endpoint

        path = conversion.folder / conversion.artifact.entry
        read_endpoint(path)
        return path.parent


class SavedModelToOnnx(_FromSavedModel):
    target = "onnx"


class SavedModelToTflite(_FromSavedModel):
    target = "tflite"


class KerasToTflite(_ByTensorFlow):
    source, target = "keras", "tflite"

    def _source(self, conversion: Conversion, scratch: Path) -> Path:
        from openmaas.engines.keras.config import check_configuration
        from openmaas.engines.keras.file import kind_of, read_configuration
        from openmaas.engines.keras.model import import_keras

        path = conversion.folder / conversion.artifact.entry
        import_keras()
        check_configuration(read_configuration(path))
        place = scratch / f"source.{kind_of(path)}"
        place.symlink_to(path.absolute())
        return place


def _names(kind: str, path: Path) -> set[str]:
    if kind == "tflite":
        from openmaas.engines.litert.model import LiteRtModel

        signature = LiteRtModel(path).signature
    else:
        from openmaas.formats.onnx.graph import read_model, read_signature

        signature = read_signature(read_model(path))
    return {spec.name for spec in (*signature.inputs, *signature.outputs)}


def _run(conversion: Conversion, request: dict[str, Any]) -> None:
    """Raises InvalidInput with what TensorFlow said."""
    scratch = Path(request["output"]).parent
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = subprocess.run(
        [conversion.python, "-I", _SCRIPT],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=scratch,
        env=environment | {"HOME": str(scratch), "TMPDIR": str(scratch)},
        text=True,
        errors="replace",
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if line.strip()]
    for line in lines:
        conversion.log(without_paths(line)[:500])
    if process.returncode or not Path(request["output"]).is_file():
        raise InvalidInput(
            f"TensorFlow cannot convert the {request['source']} to {request['target']}: {_cause(lines, process.returncode)}",
            code="conversion_failed",
            next_step="`openmaas jobs logs` has all that it said.",
        )


def _cause(lines: Sequence[str], code: int) -> str:
    said = [line.strip() for line in lines if not line.startswith(_NOISE)]
    return f"{without_paths(said[-1])[:300].rstrip('. ')}." if said else f"it ended with exit code {code}."
