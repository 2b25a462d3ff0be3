"""A Python function: read as data, approved by digest, run by its engine; and code that does wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.engines.function import FunctionEngine, code_digest
from openmaas.formats import Examined
from tests.integration.formats.conftest import Examine

DESCRIPTION = """\
format: function
entry: model.py
signature:
  inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
  outputs: [{name: y, datatype: FP32, shape: [-1]}]
"""
CODE = """\
from helper import double
weights = None

def load(folder):
    global weights
    weights = [float(word) for word in (folder / "weights.txt").read_text().split()]

def predict(inputs):
    return {"y": double(inputs["x"]) @ weights}
"""
HELPER = "def double(x):\n    return x * 2\n"


def write(folder: Path, code: str = CODE, more: str = "") -> str:
    """The function's files; the digest that an admin would approve."""
    (folder / "openmaas.yaml").write_text(DESCRIPTION + more)
    (folder / "model.py").write_text(code)
    (folder / "helper.py").write_text(HELPER)
    (folder / "weights.txt").write_text("1 10")
    return code_digest(folder, "model.py")


@pytest.fixture
def approve(folder: Path, look: Examine) -> Any:
    def run(code: str = CODE, more: str = "", **options: Any) -> Examined:
        return look(approved=frozenset({write(folder, code, more)}), **options)

    return run


def serve(found: Examined, folder: Path) -> Any:
    manifest = Manifest(
        format=found.format, engine=found.engine, entry=found.entry, artifacts=found.artifacts, signature=found.signature,
        files=(),
    )  # fmt: skip
    engine = create_engine("function")
    engine.load(EngineSpec(folder=folder, manifest=manifest))
    return engine


@pytest.fixture(autouse=True)
def untouched_modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each test's helper.py is its own."""
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("helper", None)


ROWS = {"x": np.array([[1, 2], [3, 4]], np.float32)}


def test_code_is_refused_until_its_digest_is_approved(folder: Path, look: Examine) -> None:
    marker = folder.parent / "ran"
    digest = write(folder, f"open({str(marker)!r}, 'w')\n{CODE}")
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "code_refused"
    assert digest in caught.value.message
    assert caught.value.next_step == f"If you trust it, an admin may run: openmaas approve {digest}"
    found = look(approved=frozenset({digest}))
    assert (found.format, found.engine, found.entry, found.batchable) == ("function", "function", "model.py", False)
    assert not marker.exists()  # approved, and still not run at push


def test_an_approved_function_is_served(folder: Path, approve: Any) -> None:
    found = approve()
    engine = serve(found, folder)
    engine.warm()
    assert engine.run(ROWS)["y"].tolist() == [42.0, 86.0]
    assert engine.run(ROWS)["y"].dtype == np.float32
    assert engine.describe()["library"] == "python"


@pytest.mark.parametrize(
    ("file", "text"), [("model.py", CODE + "\n"), ("helper.py", HELPER + "\n"), ("other.py", ""), ("deep/other.PY", "")]
)
def test_any_change_of_the_code_needs_another_approval(file: str, text: str, folder: Path, look: Examine) -> None:
    digest = write(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    with pytest.raises(Refused, match="code that the server would run"):
        look(approved=frozenset({digest}))


def test_another_entry_needs_another_approval(folder: Path) -> None:
    write(folder)
    assert code_digest(folder, "model.py") != code_digest(folder, "helper.py")


def test_weights_may_change_without_another_approval(folder: Path, look: Examine) -> None:
    digest = write(folder)
    (folder / "weights.txt").write_text("0 1")
    assert serve(look(approved=frozenset({digest})), folder).run(ROWS)["y"].tolist() == [4.0, 8.0]


@pytest.mark.parametrize("name", ["helper.so", "helper.pyc", "__pycache__/helper.cpython-311.pyc", "a.pth", "x.PYD"])
def test_compiled_code_is_refused(name: str, folder: Path, look: Examine) -> None:
    digest = write(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x7fELF")
    with pytest.raises(Refused, match="compiled code") as caught:
        look(approved=frozenset({digest}))
    assert caught.value.code == "compiled_code"


def test_code_that_changed_after_the_approval_is_not_loaded(folder: Path, approve: Any) -> None:
    found = approve()
    (folder / "helper.py").write_text("raise SystemExit\n")
    with pytest.raises(EngineFailed, match="not what was approved") as caught:
        serve(found, folder)
    assert caught.value.code == "load_failed"


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_batching_is_proved_where_it_is_declared(folder: Path, output: Path, approve: Any) -> None:
    found = approve(more="batchable: true\n")
    assert found.batchable
    assert "7 rows of the generated sample" in found.batching
    assert (found.sample, found.added) == ("sample.npz", ("sample.npz",))
    with np.load(output / "sample.npz") as sample:
        np.testing.assert_allclose(sample["expected/y"], sample["x"] @ [2, 20], rtol=1e-5)


def test_rows_that_mix_may_not_be_declared_batchable(approve: Any) -> None:
    with pytest.raises(InvalidInput, match="depends on its batch") as caught:
        approve(
            "def predict(inputs):\n    x = inputs['x']\n    return {'y': (x - x.mean()).sum(axis=1)}\n", "batchable: true\n"
        )
    assert caught.value.code == "not_batchable"


def test_a_given_sample_is_kept(folder: Path, output: Path, approve: Any) -> None:
    np.save(folder / "rows.npy", ROWS["x"].astype(float))
    found = approve(sample="rows.npy")
    assert found.sample == "sample.npz"
    with np.load(output / found.sample) as sample:
        assert sample.files == ["x"]
        assert sample["x"].dtype == np.float32


def test_a_sample_that_does_not_fit_is_told(folder: Path, approve: Any) -> None:
    np.save(folder / "rows.npy", np.zeros((3, 5)))
    with pytest.raises(InvalidInput, match=r"shape \[3, 5\]"):
        approve(sample="rows.npy")


def test_answers_that_the_function_does_not_give(folder: Path, approve: Any) -> None:
    np.savez(folder / "rows.npz", **ROWS, **{"expected/y": np.array([1.0, 2.0], np.float32)})
    with pytest.raises(Refused, match="does not give the answers"):
        approve(more="batchable: true\n", sample="rows.npz")


# ── what it says wrongly ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def other(): pass\n", "defines no function 'predict'"),
        ("def predict(:\n", "is not Python"),
        ("x = 1\0", "is not Python"),
        ("x = " + "(" * 9000, "is not Python"),
        ("class A:\n    def predict(self): pass\n", "defines no function 'predict'"),
    ],
)
def test_a_file_that_is_no_function(code: str, told: str, approve: Any) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        approve(code)
    assert caught.value.code == "invalid_code"


@pytest.mark.parametrize("code", ["from helper import double as predict\n", "predict = lambda inputs: inputs\n"])
def test_a_predict_from_elsewhere(code: str, approve: Any) -> None:
    assert approve(code).engine == "function"


def test_a_signature_is_needed(folder: Path, look: Examine) -> None:
    write(folder)
    (folder / "openmaas.yaml").write_text("format: function\nentry: model.py\n")
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "signature_needed"


def test_without_an_entry_the_files_are_listed(folder: Path, look: Examine) -> None:
    write(folder)
    (folder / "openmaas.yaml").write_text(DESCRIPTION.replace("entry: model.py\n", ""))
    with pytest.raises(InvalidInput, match=r"'helper.py' \(function\), 'model.py' \(function\)"):
        look()


def test_python_files_beside_another_model_are_no_function(folder: Path, look: Examine) -> None:
    (folder / "model.py").write_text(CODE)
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "no_model"


# ── what goes wrong when it runs ─────────────────────────────────────────────────────────────────────────────────────


def engine_of(code: str, folder: Path, datatype: str = "FP32") -> FunctionEngine:
    folder.mkdir(exist_ok=True)
    digest = write(folder, code)
    from openmaas.core.manifest import Artifact
    from openmaas.core.types import Signature, TensorSpec

    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
        outputs=(msgspec.convert({"name": "y", "datatype": datatype, "shape": [-1]}, TensorSpec),),
    )
    artifact = Artifact(kind="function", entry="model.py", options={"sha256": digest})
    manifest = Manifest(
        format="function", engine="function", entry="model.py", artifacts=(artifact,), signature=signature, files=()
    )
    engine = FunctionEngine()
    engine.load(EngineSpec(folder=folder, manifest=manifest))
    return engine


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('no such customer')", "cannot run this input: ValueError: no such customer"),
        ("open('/etc/no/such/file')", "FileNotFoundError: [Errno 2] No such file or directory: 'file'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("return None", "gave a NoneType instead of a dict"),
        ("return {'z': 1}", "gave 'z', and no output 'y'"),
        ("return {}", "gave nothing, and no output 'y'"),
        ("return {'y': [1, 2, 3j]}", "gave complex128 for output 'y', which is FP32"),
        ("return {'y': ['a', 'b']}", "for output 'y', which is FP32"),
        ("return {'y': [[1.0], [2.0]]}", "gave the shape [2, 1] for output 'y', which has [-1]"),
        ("return {'y': [[1.0], [2.0, 3.0]]}", "ValueError: setting an array element with a sequence"),
    ],
)
def test_an_error_is_told_by_type_and_message(body: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = engine_of(f"def predict(inputs):\n    {body}\n", folder)
    with pytest.raises(EngineFailed) as caught:
        engine.run(ROWS)
    assert told in caught.value.message
    assert "model.py" not in str(caught.value)
    assert str(folder) not in str(caught.value)


def test_the_line_is_in_the_replicas_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmaas.engines import function

    seen: list[dict[str, Any]] = []

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            seen.append({"event": event, **fields})

    monkeypatch.setattr(function, "get_logger", lambda _: Log())
    engine = engine_of("import json\n\ndef predict(inputs):\n    return json.loads('{')\n", folder)
    with pytest.raises(EngineFailed):
        engine.run(ROWS)
    assert [(line["event"], line["error"], line["place"]) for line in seen] == [
        ("function_failed", "JSONDecodeError", "model.py:4")
    ]


@pytest.mark.parametrize("body", ["raise RuntimeError('no card')", "import no_such_library", "raise SystemExit"])
def test_a_function_that_does_not_load(body: str, folder: Path) -> None:
    with pytest.raises(EngineFailed, match="The function does not load") as caught:
        engine_of(f"def load(folder):\n    {body}\ndef predict(inputs): pass\n", folder)
    assert caught.value.code == "load_failed"


@pytest.mark.parametrize(
    ("datatype", "value", "answer"),
    [("BYTES", "['a', b'b']", [b"a", b"b"]), ("INT64", "[1, 2]", [1, 2]), ("BOOL", "[True, False]", [True, False]),
     ("FP64", "[1, 2]", [1.0, 2.0])],
)  # fmt: skip
def test_types_of_answers(datatype: str, value: str, answer: Any, folder: Path) -> None:
    engine = engine_of(f"def predict(inputs):\n    return {{'y': {value}}}\n", folder, datatype)
    assert engine.run(ROWS)["y"].tolist() == answer


def test_a_file_of_theirs_stands_for_no_library_of_the_servers(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "msgspec.py").write_text("raise RuntimeError('shadowed')\n")
    engine = engine_of("import msgspec\ndef predict(inputs):\n    return {'y': inputs['x'][:, 0]}\n", folder)
    assert engine.run(ROWS)["y"].tolist() == [1.0, 3.0]


def test_a_caller_of_a_wrong_function_gets_an_error_of_ours(folder: Path) -> None:
    engine = engine_of("def predict(a, b):\n    return {}\n", folder)
    with pytest.raises(OpenMaaSError, match="TypeError"):
        engine.run(ROWS)
