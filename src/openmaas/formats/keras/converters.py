"""Conversions from Keras files that PyTorch can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact
from openmaas.formats.converters import Conversion, Converter

if TYPE_CHECKING:
    from openmaas.engines.keras.model import KerasModel


class KerasToOnnx(Converter):
    source, target = "keras", "onnx"

    def convert(self, conversion: Conversion) -> Artifact:
        from openmaas.formats.keras.conversion import convert

        made = Artifact(kind=self.target, entry="model.onnx")
        converted = convert(_model(conversion), dict(conversion.sample), "given", conversion.output / made.entry)
        if not converted.parity.passed:
            raise InvalidInput(
                f"The model does not become ONNX that answers as Keras does: {converted.parity.reason}",
                code="conversion_failed",
                next_step="Let Keras itself serve it: --engine keras.",
            )
        return made


class KerasToTorchExport(Converter):
    source, target = "keras", "torch-export"

    def convert(self, conversion: Conversion) -> Artifact:
        from openmaas.formats.keras.conversion import write_program

        made = Artifact(kind=self.target, entry="model.pt2")
        write_program(_model(conversion), dict(conversion.sample), conversion.output / made.entry)
        return made


def _model(conversion: Conversion) -> KerasModel:
    from openmaas.engines.keras.model import load_keras

    return load_keras(conversion.folder / conversion.artifact.entry)
