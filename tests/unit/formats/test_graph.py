from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.types import TensorSpec
from openmaas.formats.onnx import graph
from tests.unit.formats import models
from tests.unit.formats.models import model, save, save_external, value, weights


def spec(proto: object) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    signature = graph.read_signature(proto)
    return signature.inputs, signature.outputs


def test_onnx_is_told_by_its_content(tmp_path: Path) -> None:
    assert graph.is_onnx(save(models.linear(), tmp_path, "weights.txt"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x09",
        b"PK\x03\x04",
        b"hello",
        b"\x80\x04K\x01.",
        bytes(100),
        models.linear().graph.SerializeToString(),  # a graph, and no model around it
        models.linear().SerializeToString() + b"PK\x03\x04" + bytes(40),  # what a polyglot hides behind the model
        models.linear().SerializeToString() + b"\x80\x04cos\nsystem\n.",
    ],
)
def test_what_is_not_onnx(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert not graph.is_onnx(path)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_looked_at_without_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    graph.is_onnx(path)


def test_no_truncated_graph_is_taken_for_a_whole_one(tmp_path: Path) -> None:
    proto = models.linear()
    whole = proto.SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if not graph.is_onnx(path):
            continue
        try:
            assert graph.read_model(path).graph == proto.graph  # only what follows the graph is missing
        except InvalidInput as error:
            assert error.code in ("truncated", "damaged")


def test_truncation_names_both_sizes(tmp_path: Path) -> None:
    path = save(models.linear(), tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(InvalidInput, match=f"has {size // 2} bytes and declares"):
        graph.read_model(path)


def test_an_empty_graph_is_refused(tmp_path: Path) -> None:
    path = save(model([], [], []), tmp_path)
    with pytest.raises(InvalidInput, match="empty graph"):
        graph.read_model(path)


def test_the_signature_leaves_constants_out() -> None:
    proto = models.linear()
    proto.graph.input.append(value("W", [4, 3]))
    inputs, outputs = spec(proto)
    assert inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    assert outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),)


def test_axes_without_a_length_are_dynamic() -> None:
    inputs, _ = spec(models.identity(TensorProto.INT64, ("n", None, 3, -1)))
    assert inputs[0].shape == (-1, -1, 3, -1)
    assert graph.axis_names(models.identity(TensorProto.INT64, ("n", None, 3)))["x"] == ("n", "", "")


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [(TensorProto.STRING, "BYTES"), (TensorProto.FLOAT16, "FP16"), (TensorProto.BFLOAT16, "BF16"), (TensorProto.BOOL, "BOOL")],
)
def test_datatypes(kind: int, datatype: str) -> None:
    assert spec(models.identity(kind))[0][0].datatype == datatype


@pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, 77])
def test_a_datatype_that_no_protocol_carries_is_refused(kind: int) -> None:
    with pytest.raises(Refused, match="element type"):
        spec(models.identity(kind))


def test_a_sequence_is_refused_by_name() -> None:
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    with pytest.raises(Refused, match="'s' is a sequence"):
        spec(model([helper.make_node("SequenceConstruct", ["x"], ["s"])], [value("x", [1])], [output]))


def test_operators_of_somebody_else_are_named() -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="com.evil")
    inner = helper.make_graph([helper.make_node("Deep", ["x"], ["z"], domain="org.deep")], "then", [], [value("z", None)])
    branch = helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner)
    proto = model([node, branch], [value("x", [1]), value("c", [], TensorProto.BOOL)], [value("y", [1])])
    with pytest.raises(Refused, match=r"com.evil::Magic, org.deep::Deep") as caught:
        graph.check_operators(proto)
    assert caught.value.code == "custom_operator"


def test_operators_of_onnxruntime_and_local_functions_pass() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], domain="mine"),
        helper.make_node("Gelu", ["t"], ["y"], domain="com.microsoft"),
    ]
    opsets = [helper.make_opsetid("mine", 1), helper.make_opsetid("com.microsoft", 1)]
    graph.check_operators(model(nodes, [value("x", [1])], [value("y", [1])], functions=[function], opsets=opsets))


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = save_external(tmp_path, length="48", offset="0")
    assert graph.check_external_data(graph.read_model(path), path, tmp_path) == ["weights.bin"]


@pytest.mark.parametrize(
    "location", ["../../../../etc/passwd", "/etc/passwd", "..", "a/../../weights.bin", "", ".\\weights.bin"]
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    path = save_external(tmp_path / "m", location)
    with pytest.raises(Refused) as caught:
        graph.check_external_data(graph.read_model(path), path, tmp_path / "m")
    assert caught.value.code == "external_data"


def test_external_data_through_a_link_is_refused(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").symlink_to("/etc/passwd")
    with pytest.raises(Refused):
        graph.check_external_data(graph.read_model(path), path, tmp_path)


def test_external_data_that_was_not_pushed_is_named(tmp_path: Path) -> None:
    path = save_external(tmp_path, "other.bin")
    with pytest.raises(InvalidInput, match=r"'other.bin', which was not pushed"):
        graph.check_external_data(graph.read_model(path), path, tmp_path)


@pytest.mark.parametrize(
    "fields", [{"length": "49"}, {"offset": "4"}, {"offset": "4", "length": "48"}, {"offset": "48", "length": "1"}]
)
def test_external_data_must_be_long_enough(tmp_path: Path, fields: dict[str, str]) -> None:
    path = save_external(tmp_path, **fields)
    with pytest.raises(InvalidInput, match="which has 48"):
        graph.check_external_data(graph.read_model(path), path, tmp_path)


@pytest.mark.parametrize("fields", [{"length": "-1"}, {"offset": "x"}, {"length": "9" * 30}, {"offset": "１"}])
def test_external_spans_must_be_numbers(tmp_path: Path, fields: dict[str, str]) -> None:
    path = save_external(tmp_path, **fields)
    with pytest.raises(InvalidInput, match="not a number"):
        graph.check_external_data(graph.read_model(path), path, tmp_path)


def test_external_data_is_found_in_attributes_subgraphs_and_functions(tmp_path: Path) -> None:
    def hidden() -> TensorProto:
        tensor = numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        return tensor

    constant = helper.make_node("Constant", [], ["k"], value=hidden())
    inner = helper.make_graph([constant], "then", [], [value("k", [2])])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function("mine", "F", [], ["k"], [constant], [helper.make_opsetid("", 17)])
    cases = [
        model([constant], [], [value("k", [2])]),
        model([branch], [value("c", [], TensorProto.BOOL)], [value("y", [2])]),
        model([helper.make_node("F", [], ["y"], domain="mine")], [], [value("y", [2])], functions=[function]),
    ]
    for proto in cases:
        with pytest.raises(Refused, match="/etc/passwd"):
            graph.check_external_data(proto, tmp_path / "model.onnx", tmp_path)


def test_shapes_that_the_file_does_not_give() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [2])], [value("y", None)], [weights()])
    assert graph.unknown_ranks(proto) == {"y"}
