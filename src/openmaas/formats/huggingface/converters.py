"""Encoder folders to other kinds of artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.core.processing import TextInput
from openmaas.engines.encoder import Encoder, EncoderOptions
from openmaas.formats.converters import Conversion, Converter
from openmaas.formats.huggingface.exporting import write_onnx
from openmaas.formats.sample import stretch

_DEFAULT_LENGTH = 512


class HuggingFaceToOnnx(Converter):
    source = "huggingface"
    target = "onnx"

    def convert(self, conversion: Conversion) -> Artifact:
        encoder = load_encoder(conversion)
        path = conversion.output / "model.onnx"
        try:
            write_onnx(encoder, example_of(conversion.sample), _limit(conversion), path)
        except OpenMaaSError as error:
            raise InvalidInput(error.message, code="not_convertible") from None
        return Artifact(kind="onnx", entry=path.name)


def load_encoder(conversion: Conversion) -> Encoder:
    """The model of the folder, as its engine runs it. Raises InvalidInput with what the library said."""
    artifact = conversion.artifact
    return Encoder.load((conversion.folder / artifact.entry).parent, EncoderOptions.read(artifact.options))


def example_of(sample: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Three rows for an exporter to follow."""
    return stretch(sample, 3)


def _limit(conversion: Conversion) -> int:
    processing = conversion.manifest.processing
    declared = processing.input if processing else None
    return declared.max_length if isinstance(declared, TextInput) else _DEFAULT_LENGTH
