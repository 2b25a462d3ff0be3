"""Conversions of PyTorch's two kinds of files. Each result is compared with its source by the job that asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.formats.converters import Conversion, Converter

if TYPE_CHECKING:
    from openmaas.engines.torch.program import TorchProgram


class _ToOnnx(Converter):
    target = "onnx"

    def convert(self, conversion: Conversion) -> Artifact:
        from openmaas.formats.torch.onnx import write_onnx

        program = _program(conversion)
        inputs = dict(conversion.sample)
        _written(lambda: write_onnx(program, conversion.manifest.signature, inputs, conversion.output / "model.onnx"))
        conversion.log("torch.onnx wrote model.onnx")
        return Artifact(kind="onnx", entry="model.onnx")


class ExportedToOnnx(_ToOnnx):
    source = "torch-export"


class ScriptToOnnx(_ToOnnx):
    source = "torchscript"


class ExportedToScript(Converter):
    """Each operator of the graph as a line of TorchScript."""

    source = "torch-export"
    target = "torchscript"

    def convert(self, conversion: Conversion) -> Artifact:
        from openmaas.engines.torch.program import ExportedProgram
        from openmaas.formats.torch.onnx import quiet
        from openmaas.formats.torch.scripting import to_script

        program = _program(conversion)
        assert isinstance(program, ExportedProgram)
        outputs = [spec.name for spec in conversion.manifest.signature.outputs]

        def write() -> None:
            with quiet():
                to_script(program, outputs).save(str(conversion.output / "model.pt"))

        _written(write)
        conversion.log("torch.jit wrote model.pt")
        return Artifact(kind="torchscript", entry="model.pt")


class _ToOpenVino(Converter):
    target = "openvino"

    def convert(self, conversion: Conversion) -> Artifact:
        from importlib.util import find_spec

        if find_spec("openvino") is None:
            raise InvalidInput(
                "OpenVINO is not installed here.",
                code="engine_not_installed",
                next_step="Install it on the server: pip install 'openmaas[openvino]'.",
            )
        program = _program(conversion)
        _written(lambda: _write_ir(program, conversion, conversion.output / "model.xml"))
        conversion.log("OpenVINO wrote model.xml and model.bin")
        return Artifact(kind="openvino", entry="model.xml")


class ExportedToOpenVino(_ToOpenVino):
    source = "torch-export"


class ScriptToOpenVino(_ToOpenVino):
    source = "torchscript"


def _program(conversion: Conversion) -> TorchProgram:
    from openmaas.engines.torch.program import load_program
    from openmaas.formats.torch import require_torch

    require_torch()
    return load_program(conversion.folder / conversion.artifact.entry, conversion.artifact.kind)


def _written(write: Any) -> None:
    from openmaas.engines.torch.script import reason

    try:
        write()
    except InvalidInput:
        raise
    except OpenMaaSError as error:
        raise InvalidInput(error.message, code="not_convertible") from None
    except Exception as error:
        raise InvalidInput(
            f"It cannot be converted ({type(error).__name__}): {reason(error)}", code="not_convertible"
        ) from None


def _write_ir(program: TorchProgram, conversion: Conversion, path: Path) -> None:
    """Under the signature's names and shapes, in the source's own precision."""
    import openvino
    import torch

    from openmaas.engines.torch.program import ExportedProgram
    from openmaas.engines.torch.values import name_outputs
    from openmaas.formats.torch.onnx import quiet, tensors_of

    signature = conversion.manifest.signature
    tensors = tensors_of(conversion.sample, signature)
    with quiet():
        if isinstance(program, ExportedProgram):
            model = openvino.convert_model(program.exported)
            given = list(program.answer_nodes())
        else:
            frozen = torch.jit.freeze(program.module)
            shapes = [openvino.PartialShape(list(spec.shape)) for spec in signature.inputs]
            model = openvino.convert_model(frozen, example_input=tensors, input=shapes)
            given = list(name_outputs(frozen(*tensors), program.inputs))
    for port, spec in zip(model.inputs, signature.inputs, strict=True):
        port.get_tensor().set_names({spec.name})
    _name_results(model, given, [spec.name for spec in signature.outputs])
    openvino.save_model(model, path, compress_to_fp16=False)


def _name_results(model: Any, given: list[str], wanted: list[str]) -> None:
    """Our names for the results, and no others than those that are wanted."""
    if len(model.outputs) != len(given):
        raise InvalidInput(f"OpenVINO gives {len(model.outputs)} outputs, the module {len(given)}.", code="not_convertible")
    results = dict(zip(given, list(model.get_results()), strict=True))
    for name, result in results.items():
        if name in wanted:
            result.output(0).get_tensor().set_names({name})
        else:
            model.remove_result(result)
