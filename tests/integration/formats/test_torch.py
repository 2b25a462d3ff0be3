"""PyTorch: live modules as a client pushes them, TorchScript and .pt2 files, through the child and by the serving engines."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats import Examined, export
from openmaas.formats.files import sha256_of
from tests.integration.formats.conftest import Examine

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tests.integration.formats.torch_models import MODELS, encoder, perceptron  # noqa: E402

MEMORY = 6 << 30


def answers_of(found: Examined, artifact: Artifact, engine: str, inputs: dict[str, Any], *folders: Path, **how: Any) -> Any:
    """What an engine says that loads one of the artifacts."""
    folder = next(folder for folder in folders if (folder / artifact.entry).is_file())
    manifest = Manifest(
        format=found.format,
        engine=found.engine,
        entry=found.entry,
        artifacts=found.artifacts,
        signature=found.signature,
        files=(),
    )
    loaded = create_engine(engine)
    loaded.load(EngineSpec(folder=folder, manifest=manifest, choice=EngineChoice(engine=engine, artifact=artifact, **how)))
    loaded.warm()
    return loaded.run(inputs)


def truth(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The module's own answers by our names."""
    from openmaas.engines.torch.values import name_outputs, to_array

    module.eval()
    with torch.no_grad():
        answers = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: to_array(tensor) for name, tensor in name_outputs(answers).items()}


def fresh(found: Examined, rows: int, length: int = 8) -> dict[str, Any]:
    """Inputs that no sample had."""
    random = np.random.default_rng(3)
    made = {}
    for spec in found.signature.inputs:
        shape = [rows if not axis else length if n == -1 else n for axis, n in enumerate(spec.shape)]
        whole = spec.datatype == "INT64"
        made[spec.name] = (
            random.integers(1, 2 if "mask" in spec.name else 50, shape)
            if whole
            else random.standard_normal(shape).astype(np.float32)
        )
    return made


def close(answers: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> bool:
    return set(answers) == set(expected) and all(
        answers[name].shape == array.shape and np.allclose(answers[name], array, atol=tolerance, rtol=1e-4)
        for name, array in expected.items()
    )


# ── live modules ─────────────────────────────────────────────────────────────────────────────────────────────────────

SIGNATURES: dict[str, tuple[dict[str, list[int]], dict[str, list[int]]]] = {
    "perceptron": ({"x": [-1, 4]}, {"output": [-1, 3]}),
    "convolutions": ({"image": [-1, 1, 8, 8]}, {"output_0": [-1, 10], "output_1": [-1, 10]}),
    "encoder": (
        {"input_ids": [-1, -1], "attention_mask": [-1, -1]},
        {"logits": [-1, 3], "hidden": [-1, -1, 16]},
    ),
    "recurrent": ({"series": [-1, -1, 2]}, {"mean": [-1, 1], "spread": [-1, 1]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_live_module(name: str, folder: Path, output: Path, look: Examine) -> None:
    module, sample = MODELS[name]()
    module.train()
    exported = export(module, sample, folder)

    assert module.training, "the module is left as it was"
    assert exported.parity is not None
    assert exported.parity.passed, exported.parity.reason
    assert {comparison.batch for comparison in exported.parity.comparisons} == {1, 2, 7}
    kind, file = ("torchscript", "model.pt") if name == "recurrent" else ("torch-export", "model.pt2")
    assert set(exported.files) == {file, "model.onnx", "sample.npz", "openmaas.yaml"}

    found = look(sample=exported.sample, parity=exported.parity, memory=MEMORY)
    assert (found.format, found.engine, found.entry) == ("torch", "onnxruntime", "model.onnx")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", kind]
    assert found.batchable, found.batching
    assert found.parity == exported.parity
    inputs, outputs = SIGNATURES[name]
    assert {spec.name: list(spec.shape) for spec in found.signature.inputs} == inputs
    assert {spec.name: list(spec.shape) for spec in found.signature.outputs} == outputs

    for rows, length in ((1, 8), (5, 5)):
        given = fresh(found, rows, length)
        for engine, artifact in zip(("onnxruntime", "torch"), found.artifacts, strict=True):
            assert close(answers_of(found, artifact, engine, given, folder, output), truth(module, given)), (engine, rows)


def test_same_module_gives_the_same_files(tmp_path: Path) -> None:
    """So that a push that is repeated makes no second version. No path of this machine is in them either."""
    module, sample = perceptron()
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        files = export(module, sample, folder).files
        digests.append([sha256_of(folder / file) for file in files])
        assert all(b"torch_models.py" not in (folder / file).read_bytes() for file in files if file != "sample.npz")
    assert digests[0] == digests[1]


@pytest.mark.parametrize("form", ["numpy", "tuple", "list", "dict", "nested lists"])
def test_forms_of_a_sample(form: str, folder: Path) -> None:
    module, x = perceptron()
    forms = {"numpy": x.numpy(), "tuple": (x,), "list": [x.numpy()], "dict": {"x": x}, "nested lists": x.tolist()}
    exported = export(module, forms[form], folder)
    assert exported.parity is not None
    assert exported.parity.passed, exported.parity.reason
    with np.load(folder / "sample.npz") as kept:
        assert np.allclose(kept["x"], x)
        assert np.allclose(kept["expected/output"], truth(module, {"x": x.numpy()})["output"], atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (None, "sample"),
        (torch.zeros(3, 5), "does not run on the sample"),
        ((torch.zeros(3, 4), torch.zeros(3, 4)), "2 inputs"),
        ({"y": torch.zeros(3, 4)}, "forward takes 'x'"),
        (torch.zeros(0, 4), "number of rows"),
        (torch.tensor(3.0), "number of rows"),
        (["a", "b"], "no tensor of numbers"),
        (object(), "no tensor of numbers"),
        (torch.zeros(3, 4).to_sparse(), "no tensor of numbers"),
        (np.array([[1 + 2j] * 4]), "no tensor of numbers"),
    ],
)
def test_sample_that_does_not_fit(sample: Any, said: str, folder: Path) -> None:
    module, _ = perceptron()
    with pytest.raises(InvalidInput, match=said) as caught:
        export(module, sample, folder)
    assert caught.value.next_step
    assert module.training


def test_one_input_names_no_sequence_and_two_do() -> None:
    from openmaas.formats.torch.arguments import dynamic_axes

    ids = torch.zeros(3, 7, dtype=torch.long)
    assert dynamic_axes([{"ids": ids}]) == {"ids": {0}}
    assert dynamic_axes([{"ids": ids, "mask": ids}]) == {"ids": {0, 1}, "mask": {0, 1}}
    assert dynamic_axes([{"ids": ids, "mask": ids, "weights": torch.zeros(3, 7, 2), "other": torch.zeros(3, 2)}]) == {
        "ids": {0, 1},
        "mask": {0, 1},
        "weights": {0, 1},
        "other": {0},
    }
    assert dynamic_axes([{"x": torch.zeros(3, 7, 2)}, {"x": torch.zeros(3, 9, 2)}]) == {"x": {0, 1}}


class Colliding(torch.nn.Module):
    """Outputs named as an input, as a parameter and as a value inside of the graph are named."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Any) -> Any:
        linear = x @ self.weight
        return {"x": x, "weight": linear, "matmul": linear.relu(), "relu": linear, "module.weight": linear.tanh()}


def test_names_that_collide(folder: Path, output: Path, look: Examine) -> None:
    module = Colliding()
    exported = export(module, torch.randn(5, 4), folder)
    assert exported.parity is not None
    assert exported.parity.passed, exported.parity.reason
    found = look(sample=exported.sample, parity=exported.parity, memory=MEMORY)
    assert [spec.name for spec in found.signature.outputs] == ["x_out", "weight", "matmul", "relu", "module_weight"]
    given = fresh(found, 3)
    served = answers_of(found, found.artifacts[0], "onnxruntime", given, folder, output)
    assert np.allclose(served["weight"], given["x"] @ module.weight.detach().numpy(), atol=1e-5)
    assert np.allclose(served["matmul"], np.maximum(served["weight"], 0), atol=1e-6)
    assert np.array_equal(served["x_out"], given["x"])


class Branching(torch.nn.Module):
    """What it computes depends on values: no exporter without the author's help can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.first(x) if x.sum().item() > 0 else self.first(-x)


def test_module_that_torch_export_cannot_follow(folder: Path) -> None:
    """A trace has one branch only; that is found out by comparing, and said."""
    sample = torch.cat([torch.ones(1, 4), -torch.ones(1, 4)])
    with pytest.raises(InvalidInput, match="neither be exported nor traced") as caught:
        export(Branching(), sample, folder)
    assert caught.value.code == "not_exportable"
    assert "torch.export fails" in caught.value.message
    assert "model.pt gives other answers" in caught.value.message


class Listening(torch.nn.Module):
    """Reads a value in Python, and computes the same whatever it is: torch.export gives up, a trace is right."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        float(x.sum())
        return self.first(x) * (1 if float(x.abs().sum()) >= 0 else 2)


def test_module_that_only_traces(folder: Path, output: Path, look: Examine) -> None:
    module = Listening()
    exported = export(module, torch.randn(6, 4), folder)
    assert "model.pt" in exported.files
    assert exported.parity is not None
    assert exported.parity.passed, exported.parity.reason
    found = look(sample=exported.sample, parity=exported.parity, memory=MEMORY)
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "torchscript"]
    given = fresh(found, 3)
    for engine, artifact in zip(("onnxruntime", "torch"), found.artifacts, strict=True):
        assert close(answers_of(found, artifact, engine, given, folder, output), truth(module, given))


class Spectral(torch.nn.Module):
    """Nothing that ONNX has: the eigenvalues of a matrix."""

    def forward(self, matrix: Any) -> Any:
        return torch.linalg.eigvalsh(matrix + matrix.transpose(-1, -2))


def test_module_without_onnx_is_served_by_torch(folder: Path, output: Path, look: Examine) -> None:
    exported = export(Spectral(), torch.randn(5, 3, 3), folder)
    assert exported.parity is not None
    assert not exported.parity.passed
    assert "torch.onnx cannot convert it" in str(exported.parity.reason)
    assert set(exported.files) == {"model.pt2", "sample.npz"}
    found = look(sample=exported.sample, parity=exported.parity, memory=MEMORY)
    assert (found.engine, found.entry) == ("torch", "model.pt2")
    assert found.batchable, found.batching
    assert any("PyTorch itself serves it" in note for note in found.notes)
    given = fresh(found, 4)
    assert close(answers_of(found, found.artifacts[0], "torch", given, folder, output), truth(Spectral(), given))


class FixedBatch(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(1, 4) * 2


def test_module_that_fixes_its_batch(folder: Path, output: Path, look: Examine) -> None:
    from openmaas.engines.torch.program import ExportedProgram

    exported = export(FixedBatch(), torch.randn(1, 4), folder)
    assert ExportedProgram(folder / "model.pt2").signature.inputs[0].shape == (1, 4)
    found = look(sample=exported.sample, parity=exported.parity, memory=MEMORY)
    given = {"x": np.ones((1, 4), np.float32)}
    assert close(answers_of(found, found.artifacts[0], "onnxruntime", given, folder, output), {"output": given["x"] * 2})


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def scripted(name: str, path: Path) -> tuple[Any, dict[str, Any]]:
    """A TorchScript file of one of the models, and its sample as arrays."""
    module, sample = MODELS[name]()
    module.eval()
    if isinstance(sample, list):
        (series,) = sample[-1]
        sample = {"series": series}
    elif not isinstance(sample, dict):
        sample = {"x" if name == "perceptron" else "image": sample}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "recurrent":
            module = LastState(module)
        script = (
            torch.jit.trace(module, tuple(sample.values()), strict=False, check_trace=False)
            if name == "encoder"
            else torch.jit.script(module)
        )
        script.save(str(path))
    return module, {key: tensor.numpy() for key, tensor in sample.items()}


class LastState(torch.nn.Module):
    """TorchScript has no dataclasses."""

    def __init__(self, recurrent: Any) -> None:
        super().__init__()
        self.lstm, self.head = recurrent.lstm, recurrent.head

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(series)
        return self.head(states[:, -1])


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_file(name: str, folder: Path, output: Path, look: Examine) -> None:
    module, sample = scripted(name, folder / "weights.bin")
    np.savez(folder / "sample.npz", **sample)
    found = look(sample="sample.npz", memory=MEMORY)

    assert found.format == "torch"
    assert found.batchable, found.batching
    assert found.artifacts[-1] == Artifact(kind="torchscript", entry="weights.bin")
    assert found.parity is not None
    assert found.parity.passed or found.engine == "torch"
    assert found.parity.passed or name == "encoder", found.parity.reason
    for rows in (1, 5):
        given = fresh(found, rows, length=7)
        engines = ["onnxruntime", "torch"] if found.parity.passed else ["torch"]
        for engine, artifact in zip(engines, found.artifacts, strict=True):
            answers = answers_of(found, artifact, engine, given, folder, output)
            assert close(answers, truth(module, given)), (engine, rows)


def test_torchscript_without_a_sample(folder: Path, look: Examine) -> None:
    scripted("perceptron", folder / "model.pt")
    with pytest.raises(InvalidInput, match="does not say what shapes") as caught:
        look(memory=MEMORY)
    assert caught.value.code == "sample_needed"
    (folder / "openmaas.yaml").write_text(
        "signature:\n  inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\n"
        "  outputs: [{name: output, datatype: FP32, shape: [-1, 3]}]\n"
    )
    found = look(memory=MEMORY)
    assert found.batchable, found.batching
    assert found.signature.inputs[0].shape == (-1, 4)


def exported_file(path: Path, name: str = "encoder") -> tuple[Any, Any]:
    """As a person saves it, with PyTorch alone."""
    module, sample = MODELS[name]()
    module.eval()
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = tuple(sample.values()) if isinstance(sample, dict) else (sample,)
        axes = {0: dynamic, 1: dynamic} if name == "encoder" else {0: dynamic}
        program = torch.export.export(module, arguments, dynamic_shapes=tuple(axes for _ in arguments))
        torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)
    return module, sample


@pytest.mark.parametrize("name", ["convolutions", "encoder"])
def test_exported_program(name: str, folder: Path, output: Path, look: Examine) -> None:
    module, _ = exported_file(folder / "program.zip", name)
    found = look(memory=MEMORY)
    assert (found.format, found.engine) == ("torch", "onnxruntime")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "torch-export"]
    assert {spec.name: list(spec.shape) for spec in found.signature.inputs} == SIGNATURES[name][0]
    assert found.batchable, found.batching
    assert found.sample is not None
    given = fresh(found, 5, length=6)
    for engine, artifact in zip(("onnxruntime", "torch"), found.artifacts, strict=True):
        assert close(answers_of(found, artifact, engine, given, folder, output), truth(module, given))


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def examined(folder: Path, output: Path) -> Examined:
    from openmaas.engines.torch.program import ExportedProgram

    exported_file(folder / "model.pt2")
    artifact = Artifact(kind="torch-export", entry="model.pt2")
    signature = ExportedProgram(folder / "model.pt2").signature
    return Examined(format="torch", engine="torch", entry="model.pt2", signature=signature, artifacts=(artifact,))


def test_bfloat16_is_near_and_keeps_the_signature(examined: Examined, folder: Path) -> None:
    module, _ = encoder()
    given = fresh(examined, 4)
    answers = answers_of(examined, examined.artifacts[0], "torch", given, folder, precision="bf16")
    expected = truth(module, given)
    assert close(answers, expected, tolerance=0.05)
    assert all(array.dtype == np.float32 for array in answers.values())
    assert any(not np.array_equal(answers[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_compiled(examined: Examined, folder: Path) -> None:
    from openmaas.engines.torch import can_compile

    if not can_compile():
        pytest.skip("there is no C++ compiler")
    module, _ = encoder()
    for rows in (1, 6):
        given = fresh(examined, rows, length=9)
        answers = answers_of(examined, examined.artifacts[0], "torch", given, folder, options={"compile": True})
        assert close(answers, truth(module, given))


def test_choices(examined: Examined, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmaas.engines import torch as engine

    manifest = Manifest(format="torch", engine="torch", entry="", signature=examined.signature, files=())
    script = Artifact(kind="torchscript", entry="m.pt")
    monkeypatch.setattr(engine, "computes_bf16", lambda: True)
    monkeypatch.setattr(engine, "can_compile", lambda: True)
    found = engine.TorchEngine.choices(examined.artifacts[0], manifest)
    assert [choice.label for choice in found] == ["torch", "torch:bf16", "torch:compile", "torch:bf16:compile"]
    assert [choice.label for choice in engine.TorchEngine.choices(script, manifest)] == ["torch", "torch:bf16"]
    monkeypatch.setattr(engine, "can_compile", lambda: False)
    monkeypatch.setattr(engine, "computes_bf16", lambda: False)
    assert [choice.label for choice in engine.TorchEngine.choices(examined.artifacts[0], manifest)] == ["torch"]
    assert engine.TorchEngine.choices(Artifact(kind="onnx", entry="m.onnx"), manifest) == ()


def test_wrong_input_is_told_in_torchs_words(examined: Examined, folder: Path) -> None:
    from openmaas.core.errors import EngineFailed

    with pytest.raises(EngineFailed, match="torch cannot run this input"):
        answers_of(examined, examined.artifacts[0], "torch", {"input_ids": np.ones((2, 3), np.float32)}, folder)
