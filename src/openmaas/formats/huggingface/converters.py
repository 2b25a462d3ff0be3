"""Encoder folders to other kinds of artifacts."""

from __future__ import annotations

from collections.abc import Callable

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.core.processing import TextInput
from openmaas.engines.huggingface.encoder import Encoder, EncoderOptions
from openmaas.formats.converters import Conversion, Converter
from openmaas.formats.huggingface.exporting import write_onnx, write_program
from openmaas.formats.sample import stretch

_DEFAULT_LENGTH = 512


class HuggingFaceToOnnx(Converter):
    source = "huggingface"
    target = "onnx"

    def convert(self, conversion: Conversion) -> Artifact:
        return _convert(conversion, write_onnx, "onnx", "model.onnx")


class HuggingFaceToTorchExport(Converter):
    source = "huggingface"
    target = "torch-export"

    def convert(self, conversion: Conversion) -> Artifact:
        return _convert(conversion, write_program, "torch-export", "model.pt2")


def _convert(conversion: Conversion, write: Callable[..., object], kind: str, name: str) -> Artifact:
    artifact = conversion.artifact
    encoder = Encoder.load((conversion.folder / artifact.entry).parent, EncoderOptions.read(artifact.options))
    try:
        write(encoder, stretch(conversion.sample, 3), _limit(conversion), conversion.output / name)
    except OpenMaaSError as error:
        raise InvalidInput(error.message, code="not_convertible") from None
    conversion.log(f"torch wrote {name}")
    return Artifact(kind=kind, entry=name)


def _limit(conversion: Conversion) -> int:
    processing = conversion.manifest.processing
    declared = processing.input if processing else None
    return declared.max_length if isinstance(declared, TextInput) else _DEFAULT_LENGTH
