"""OpenVINO IR as it is pushed: examined in the child, its batching proved, hostile XML refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact
from openmaas.core.types import TensorSpec
from openmaas.engines.openvino.model import write_ir
from openmaas.formats.openvino.xml import is_graph
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models

pytest.importorskip("openvino")


def save_ir(folder: Path, proto: object, scratch: Path) -> Path:
    write_ir(models.save(proto, scratch), folder / "model.xml")
    return folder / "model.xml"


def change(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    path.write_text(changed)


def test_what_is_found_out(folder: Path, output: Path, look: Examine, tmp_path: Path) -> None:
    save_ir(folder, models.linear(), tmp_path / "scratch")
    found = look()
    assert (found.format, found.engine, found.entry) == ("openvino", "openvino", "model.xml")
    assert found.artifacts == (Artifact(kind="openvino", entry="model.xml"),)
    assert found.signature.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    assert found.signature.outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),)
    assert found.batchable
    assert found.sample is not None
    with np.load(output / found.sample) as kept:
        weights = models.numpy_helper.to_array(models.weights())
        np.testing.assert_allclose(kept["expected/y"], kept["x"] @ weights, rtol=1e-5, atol=1e-6)


def test_a_graph_that_mixes_rows_is_not_batched(folder: Path, look: Examine, tmp_path: Path) -> None:
    save_ir(folder, models.mixing(), tmp_path / "scratch")
    found = look()
    assert not found.batchable
    assert "depends on its batch" in found.batching


def test_a_sample_with_other_answers_is_refused(folder: Path, look: Examine, tmp_path: Path) -> None:
    save_ir(folder, models.linear(), tmp_path / "scratch")
    x = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    np.savez(folder / "sample.npz", x=x, **{"expected/y": x[:, :3]})
    with pytest.raises(Refused, match="does not give the answers") as caught:
        look(sample="sample.npz")
    assert caught.value.code == "parity_failed"


def test_without_its_weights(folder: Path, look: Examine, tmp_path: Path) -> None:
    save_ir(folder, models.linear(), tmp_path / "scratch")
    (folder / "model.bin").unlink()
    with pytest.raises(InvalidInput, match=r"keeps its weights in 'model\.bin', which was not pushed"):
        look()


def test_with_weights_that_are_cut_short(folder: Path, look: Examine, tmp_path: Path) -> None:
    save_ir(folder, models.linear(), tmp_path / "scratch")
    weights = folder / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=r"needs 48 bytes of 'model\.bin', which has 47"):
        look()


@pytest.mark.parametrize("place", ["-1", "99999999999999999999", "1e3", "０", ""])
def test_with_a_constant_at_a_place_that_is_none(folder: Path, look: Examine, tmp_path: Path, place: str) -> None:
    change(save_ir(folder, models.linear(), tmp_path / "scratch"), r'offset="\d+"', f'offset="{place}"')
    with pytest.raises(InvalidInput, match="is no number"):
        look()


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE net [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]>',
        "<!DOCTYPE net>",
    ],
)
def test_entities_and_document_types_are_refused(folder: Path, look: Examine, tmp_path: Path, declaration: str) -> None:
    path = save_ir(folder, models.linear(), tmp_path / "scratch")
    change(path, r"<net ", f"{declaration}<net ")
    with pytest.raises(Refused, match="declares a document type or entities") as caught:
        look()
    assert caught.value.code == "xml_entities"


def test_nested_without_end(folder: Path, look: Examine) -> None:
    (folder / "model.xml").write_text("<net>" + "<a>" * 100_000 + "</a>" * 100_000 + "</net>")
    with pytest.raises(Refused, match="nested more than 256 levels"):
        look()


@pytest.mark.parametrize("cut", [20, 200, 900, -1])
def test_cut_short(folder: Path, look: Examine, tmp_path: Path, cut: int) -> None:
    path = save_ir(folder, models.linear(), tmp_path / "scratch")
    path.write_bytes(path.read_bytes().rstrip()[:cut])
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code in ("damaged", "no_model")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r'type="MatMul" version="opset1"', 'type="Evil" version="extension"'),
        (r'type="MatMul"', 'type="Reshape"'),
        (r'from-layer="0"', 'from-layer="77"'),
        (r'element_type="f32" shape="4, 3"', 'element_type="f32" shape="4000, 3000"'),
        (r"<layers>.*</layers>", "<layers/>"),
    ],
)
def test_lies_in_the_graph_are_refused(folder: Path, look: Examine, tmp_path: Path, pattern: str, replacement: str) -> None:
    path = save_ir(folder, models.linear(), tmp_path / "scratch")
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1, flags=re.DOTALL)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(OpenMaaSError) as caught:
        look()
    assert 400 <= caught.value.status < 500
    assert str(folder) not in caught.value.message


def test_a_graph_with_a_memory_is_refused(folder: Path, look: Examine) -> None:
    """Its answer depends on the calls before it: one caller would see another's."""
    import openvino
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    information = VariableInfo()
    information.data_shape, information.data_type = openvino.PartialShape([1, 2]), openvino.Type.f32
    information.variable_id = "sum"
    variable = Variable(information)
    x = ops.parameter([1, 2], np.float32, name="x")
    before = ops.read_value(ops.constant(np.zeros((1, 2), np.float32)), "sum", np.float32, [1, 2])
    total = ops.add(x, before)
    sink = ops.assign(total, "sum")
    result = ops.result(total)
    model = openvino.Model([result], [sink], [x], "sum")
    assert variable.info.variable_id == "sum"
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    with pytest.raises(Refused, match="keeps state") as caught:
        look()
    assert caught.value.code == "stateful_model"


@pytest.mark.parametrize(
    ("start", "is_one"),
    [
        (b'<?xml version="1.0"?>\n<net name="a" version="11">', True),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<!-- a -->\n<net>', True),
        (b"<net\n", True),
        (b"<!DOCTYPE net []><net>", True),
        (b"<network>", False),
        (b"<html><net>", False),
        (b"net", False),
        (b"", False),
        (b"PK\x03\x04<net>", False),
        (b"<!--" * 5000, False),
        (b"<!-- -->" * 5000, False),
    ],
)
def test_by_its_content(tmp_path: Path, start: bytes, is_one: bool) -> None:
    (tmp_path / "any.name").write_bytes(start)
    assert is_graph(tmp_path / "any.name") is is_one
