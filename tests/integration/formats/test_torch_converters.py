"""PyTorch's conversions on four architectures: each result is run by the engine that serves it, beside the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats.converters import Conversion, converters
from openmaas.formats.torch.shapes import observe, sequences

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from openmaas.engines.torch.program import ExportedProgram, ScriptProgram  # noqa: E402
from openmaas.formats import export  # noqa: E402
from tests.integration.formats.test_torch import close, scripted  # noqa: E402
from tests.integration.formats.torch_models import MODELS  # noqa: E402

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch"}
IMPOSSIBLE = {("torchscript", "onnx", "encoder")}
"""The only exporter that reads TorchScript does not know the ranks that attention's reshapes give."""


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    """A .pt2 of each architecture, and its sample."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    module, sample = MODELS[name]()
    if name == "recurrent":
        sample = sample[-1]  # torch.export takes one length only of an LSTM
    export(module, sample, folder)
    with np.load(folder / "sample.npz") as kept:
        return name, folder, {key: kept[key] for key in kept.files if "/" not in key}


@pytest.fixture(scope="module", params=MODELS)
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp(request.param)
    _, sample = scripted(request.param, folder / "model.pt")
    return request.param, folder, sample


def converted(
    kind: str, target: str, entry: str, signature: Any, folder: Path, sample: dict[str, Any], output: Path
) -> tuple[Any, list[str]]:
    """The engine that serves what came of it, loaded, and what the converter said."""
    lines: list[str] = []
    artifact = Artifact(kind=kind, entry=entry)
    manifest = Manifest(format="torch", engine="torch", entry=entry, artifacts=(artifact,), signature=signature, files=())
    conversion = Conversion(
        folder=folder, artifact=artifact, manifest=manifest, sample=sample, output=output, python=Path(), log=lines.append
    )
    made = converters()[kind, target].convert(conversion)
    assert made.kind == target
    engine = create_engine(ENGINES[target])
    choice = EngineChoice(engine=ENGINES[target], artifact=made)
    engine.load(EngineSpec(folder=output, manifest=manifest, choice=choice))
    engine.warm()
    return engine, lines


def rows(sample: dict[str, Any], count: int) -> dict[str, Any]:
    return {name: array[:count] for name, array in sample.items()}


@pytest.mark.parametrize("target", ["onnx", "torchscript", "openvino"])
def test_exported_program(target: str, exported: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    _, folder, sample = exported
    source = ExportedProgram(folder / "model.pt2")
    source.bind(source.signature)
    engine, lines = converted("torch-export", target, "model.pt2", source.signature, folder, sample, tmp_path)
    assert lines
    for count in (1, 5):
        assert close(engine.run(rows(sample, count)), source.run(rows(sample, count))), count


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_torchscript(target: str, script: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    name, folder, sample = script
    source = ScriptProgram(folder / "model.pt")
    signature = observe(source, sample, sequences(sample, [key for key, array in sample.items() if array.dtype.kind == "i"]))
    source.bind(signature)
    if ("torchscript", target, name) in IMPOSSIBLE:
        with pytest.raises(InvalidInput, match=r"torch.onnx cannot convert it") as caught:
            converted("torchscript", target, "model.pt", signature, folder, sample, tmp_path)
        assert caught.value.code == "not_convertible"
        return
    engine, _ = converted("torchscript", target, "model.pt", signature, folder, sample, tmp_path)
    for count in (1, 5):
        assert close(engine.run(rows(sample, count)), source.run(rows(sample, count))), count


def test_operators_without_a_form(tmp_path: Path) -> None:
    """Control flow within the graph: TorchScript's writer names what it lacks."""

    class Choosing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    export(Choosing(), torch.randn(3, 4), tmp_path)
    source = ExportedProgram(tmp_path / "model.pt2")
    sample = {"x": np.ones((3, 4), np.float32)}
    with pytest.raises(InvalidInput, match="TorchScript has no form") as caught:
        converted("torch-export", "torchscript", "model.pt2", source.signature, tmp_path, sample, tmp_path)
    assert caught.value.code == "not_convertible"
