"""OpenVINO IR: an .xml graph and its .bin weights. Read as data, then run in the child process to prove what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.converters import Conversion, Converter

_INSTALL = "Install it on the server: pip install 'openmaas[openvino]'."


class OpenVinoFormat(Format):
    name = "openvino"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.genai.folder import is_entry
        from openmaas.formats.openvino.xml import is_graph

        return [file for file in files if is_graph(folder / file) and not is_entry(folder, file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats import overrides
        from openmaas.formats.openvino.xml import check_graph
        from openmaas.formats.proof import prove_answers

        check_graph(task.folder, entry)
        model = _load(task.folder / entry)
        unknown = model.unknown_ranks()
        signature = overrides.override(model.signature(), unknown, task.description.signature)
        if not signature.outputs:
            raise InvalidInput(f"The graph {entry!r} has no output.", code="damaged")
        _check_datatypes(signature)
        model.bind(signature)
        found = Examined(
            format=self.name,
            engine="openvino",
            entry=entry,
            signature=signature,
            artifacts=(Artifact(kind="openvino", entry=entry),),
            options=task.description.options,
        )
        return prove_answers(task, model, found, unknown=unknown, axes={})


class OnnxToOpenVino(Converter):
    """The graph as OpenVINO reads it, in the file's own precision."""

    source = "onnx"
    target = "openvino"

    def convert(self, conversion: Conversion) -> Artifact:
        _require_library()
        from openmaas.engines.openvino.model import write_ir

        try:
            version = write_ir(conversion.folder / conversion.artifact.entry, conversion.output / "model.xml")
        except EngineFailed as error:
            raise InvalidInput(error.message, code="not_convertible") from None
        conversion.log(f"OpenVINO {version} wrote model.xml and model.bin")
        return Artifact(kind="openvino", entry="model.xml")


def _require_library() -> None:
    if find_spec("openvino") is None:
        raise InvalidInput("OpenVINO is not installed here.", code="engine_not_installed", next_step=_INSTALL)


def _load(path: Path) -> Any:
    _require_library()
    from openmaas.engines.openvino.model import OpenVinoModel

    try:
        model = OpenVinoModel(path, "openvino", threads=2)
    except OpenMaaSError as error:
        raise Refused(error.message, code="model_not_runnable", next_step="Check that OpenVINO loads the file.") from None
    if model.keeps_state():
        raise Refused(
            "The graph keeps state from one call to the next, so that callers would see each other's.",
            code="stateful_model",
            next_step="Save the model without state (openvino: no ReadValue and Assign operations).",
        )
    return model


def _check_datatypes(signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype in ("BYTES", "BF16"):
            raise Refused(
                f"{spec.name[:80]!r} has the datatype {spec.datatype}, which OpenVINO and numpy cannot hand to each other.",
                code="unsupported_type",
                next_step="Cast it to another type in the model.",
            )
