"""TensorFlow SavedModels, told and checked without TensorFlow. What lies in saved_models/ was made by make.py beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.formats.converters import find_route
from openmaas.formats.saved_model.file import is_saved_model, read_endpoint
from tests.integration.formats.conftest import Examine

MADE = Path(__file__).with_name("saved_models")


def _field(number: int, content: bytes | str | int) -> bytes:
    """A protobuf field: a number as a varint, anything else as bytes."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _node(name: str, operator: str, *inputs: str, calls: str = "") -> bytes:
    called = _field(5, _field(1, "f") + _field(2, _field(10, _field(1, calls)))) if calls else b""
    return _field(1, _field(1, name) + _field(2, operator) + b"".join(_field(3, one) for one in inputs) + called)


def _function(name: str, *operators: str) -> bytes:
    body = b"".join(_field(3, _field(1, f"n{n}") + _field(2, operator)) for n, operator in enumerate(operators))
    return _field(2, _field(1, _field(1, _field(1, name)) + body))


def _tensor(name: str, shape: tuple[int, ...] | None = (4,), datatype: int = 1) -> bytes:
    axes = b"".join(_field(2, _field(1, axis & (1 << 64) - 1)) for axis in shape or ())
    return _field(1, name) + _field(2, datatype) + _field(3, axes if shape is not None else _field(3, 1))


def _saved(folder: Path, graph: bytes, *, more: bytes = b"", tag: str = "serve", **tensors: bytes) -> Path:
    """A SavedModel whose signature takes `x` from the node x and gives `y` from the node y."""
    given = {"x": _tensor("x:0", (-1, 4)), "y": _tensor("y:0", (-1, 4))} | tensors
    endpoint = b"".join(_field(side, _field(1, name) + _field(2, given[name])) for side, name in ((1, "x"), (2, "y")))
    signature = _field(5, _field(1, "serving_default") + _field(2, endpoint))
    path = folder / "saved_model.pb"
    path.write_bytes(_field(1, 1) + _field(2, _field(1, _field(4, tag)) + _field(2, graph) + signature + more))
    return path


PLAIN = _node("x", "Placeholder") + _node("y", "Tanh", "x")
SAVER = _node("save", "PartitionedCall", calls="save_it") + _function("save_it", "ShardedFilename", "SaveV2", "RestoreV2")


def test_a_saved_model_is_read_without_tensorflow_and_waits_for_its_conversion(folder: Path, look: Examine) -> None:
    shutil.copytree(MADE / "digits", folder / "digits")
    found = look()
    assert (found.format, found.engine, found.entry, found.convert_to) == ("saved-model", "", "digits/saved_model.pb", "onnx")
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.inputs] == [("pixels", "FP32", (-1, 64))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.outputs] == [
        ("digit", "INT64", (-1,)), ("probabilities", "FP32", (-1, 10)),
    ]  # fmt: skip
    assert [(one.kind, one.options) for one in found.artifacts] == [("saved-model", {"signature": "serving_default"})]
    for target in ("onnx", "tflite"):
        _, chain = find_route(list(found.artifacts), target)
        assert [converter.environment for converter in chain] == ["tensorflow"]


def test_a_sample_must_fit(folder: Path, look: Examine) -> None:
    shutil.copytree(MADE / "digits", folder, dirs_exist_ok=True)
    np.save(folder / "sample.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InvalidInput, match="pixels"):
        look(sample="sample.npy")
    np.save(folder / "sample.npy", np.zeros((2, 64), np.float32))
    assert look(sample="sample.npy").sample == "sample.npy"


def test_a_graph_that_writes_files_is_refused_by_name(folder: Path, look: Examine) -> None:
    shutil.copytree(MADE / "writing", folder, dirs_exist_ok=True)
    with pytest.raises(Refused, match="WriteFile") as refused:
        look()
    assert refused.value.code == "unsafe_operator"
    assert not Path("/tmp/openmaas-saved-model-ran").exists()


@pytest.mark.parametrize(
    "operator",
    ["PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles", "TextLineDataset",
     "TFRecordDatasetV2", "InitializeTableFromTextFileV2", "PrintV2", "DebugIdentityV3", "RpcCall", "LoadAndRemapMatrix",
     "DecodeProtoV2", "SaveSlices", "XlaCustomCallV2", "XlaHostCompute", "_Recv", "CreateSummaryFileWriter", "SqlDataset",
     "RemoteCall", "LMDBReader"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["in the graph", "in a function"])
def test_operators_that_touch_files_or_python_are_refused_wherever_they_are(operator: str, where: str, tmp_path: Path) -> None:
    graph = PLAIN + (_node("z", operator) if where == "in the graph" else _function("never_called", "Add", operator))
    with pytest.raises(Refused, match=operator):
        read_endpoint(_saved(tmp_path, graph))


def test_weights_may_be_saved_and_restored_but_not_by_an_answer_or_at_the_start(tmp_path: Path) -> None:
    assert read_endpoint(_saved(tmp_path, PLAIN + SAVER)).name == "serving_default"
    by_answer = _node("x", "Placeholder") + _node("y", "Identity", "x", "^save") + SAVER
    by_name = _node("x", "Placeholder") + _node("y", "save_it", "x") + _function("save_it", "SaveV2")
    at_start = PLAIN + _node("__saved_model_init_op", "NoOp", "^save") + SAVER
    for graph in (by_answer, by_name, at_start):
        with pytest.raises(Refused, match="SaveV2"):
            read_endpoint(_saved(tmp_path, graph))


def _call(value: bytes) -> bytes:
    """A graph whose answer calls a function by this attribute, as its message's own bytes."""
    called = _field(5, _field(1, "f") + value)
    node = _field(1, _field(1, "y") + _field(2, "PartitionedCall") + _field(3, "x") + called)
    return _node("x", "Placeholder") + node


_SAVES = _field(2, _field(10, _field(1, "save_it")))
_INNER = _field(2, _field(1, "g") + _SAVES)


@pytest.mark.parametrize(
    "graph",
    [
        _call(_SAVES + _field(2, b"")) + _function("save_it", "SaveV2"),
        _call(_SAVES + _field(2, _field(10, b""))) + _function("save_it", "SaveV2"),
        _call(_field(2, _field(10, _field(1, "outer") + _INNER))) + _function("outer", "Add") + _function("save_it", "SaveV2"),
        _call(_SAVES) + _field(2, _field(1, _field(1, _field(1, "save_it")) + _field(1, b"") + _field(3, _field(2, "SaveV2")))),
    ],
    ids=["attribute in two parts", "call in two parts", "passed on", "signature in two parts"],
)
def test_a_call_is_found_however_it_is_written(graph: bytes, tmp_path: Path) -> None:
    """Protobuf joins the parts of a message that comes twice; a function may hand another on."""
    with pytest.raises(Refused, match="SaveV2"):
        read_endpoint(_saved(tmp_path, graph))


def test_a_second_graph_to_serve_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path, PLAIN)
    harmful = _field(2, _field(1, _field(4, "serve")) + _field(2, PLAIN + _node("z", "WriteFile")))
    path.write_bytes(path.read_bytes() + harmful)
    with pytest.raises(Refused, match="several graphs"):
        read_endpoint(path)


@pytest.mark.parametrize(
    "more", [_field(6, b"\x0a\x00"), _field(7, _field(1, _field(10, b""))), _field(7, _field(1, _field(5, b"")))]
)
def test_assets_and_tables_are_refused(more: bytes, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_endpoint(_saved(tmp_path, PLAIN, more=more))
    assert refused.value.code == "reads_files"


def test_what_cannot_be_served_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'serve'"):
        read_endpoint(_saved(tmp_path, PLAIN, tag="train"))
    with pytest.raises(Refused, match="gives no shape for 'x'"):
        read_endpoint(_saved(tmp_path, PLAIN, x=_tensor("x:0", None)))
    with pytest.raises(Refused, match="'y' is no plain tensor"):
        read_endpoint(_saved(tmp_path, PLAIN, y=_tensor("y:0", (4,), datatype=20)))


def test_another_name_of_the_file_is_told(folder: Path, look: Examine) -> None:
    shutil.copy(MADE / "digits/saved_model.pb", folder / "model.pb")
    with pytest.raises(InvalidInput, match=r"saved_model\.pb"):
        look()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = (MADE / "digits/saved_model.pb").read_bytes()
    path = tmp_path / "saved_model.pb"
    for length in range(0, len(whole), 487):
        path.write_bytes(whole[:length])
        assert not is_saved_model(path)
    random = np.random.default_rng(6)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 6):
            damaged[at] = int(random.integers(0, 256))
        path.write_bytes(bytes(damaged))
        if is_saved_model(path):
            try:
                read_endpoint(path)
            except OpenMaaSError as error:
                assert error.status in (400, 422)
    for content in (b"", b"\x08\x01", b"\x08\x01\x12\xff\xff\xff\xff\x7f", b"\xff" * 40):
        path.write_bytes(content)
        assert not is_saved_model(path)
