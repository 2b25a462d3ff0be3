"""Rows of different lengths in one batch: declared in openmaas.yaml, and proved by the engine that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Padding
from openmaas.formats import export
from tests.integration.formats.conftest import Examine
from tests.unit.formats.models import model, save, value

PADDING = "padding: {pad: {ids: 0, mask: 0}, trim: [tokens]}\n"


def attention(masked: bool = True) -> Any:
    """Tokens [N, L, D] that attend to each other, and their mean [N, D]; unless `masked`, to padding too."""
    random = np.random.default_rng(5)
    table = numpy_helper.from_array(random.standard_normal((50, 8)).astype(np.float32), "table")
    numbers = {"one": 1.0, "far": 1e9 if masked else 0.0}
    constants = [table, *(numpy_helper.from_array(np.array(number, np.float32), name) for name, number in numbers.items())]
    constants += [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (1, 2)]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "xt"], ["scores"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "m"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "far"], ["penalty"]),
        helper.make_node("Unsqueeze", ["penalty", "axis1"], ["penalties"]),
        helper.make_node("Sub", ["scores", "penalties"], ["kept"]),
        helper.make_node("Softmax", ["kept"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["tokens"]),
        helper.make_node("Unsqueeze", ["m", "axis2"], ["each"]),
        helper.make_node("Mul", ["tokens", "each"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "axis1"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["m", "axis1"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
    ]
    inputs = [value(name, ["n", "l"], TensorProto.INT64) for name in ("ids", "mask")]
    return model(nodes, inputs, [value("tokens", ["n", "l", 8]), value("mean", ["n", 8])], constants)


def write(folder: Path, said: str, *, masked: bool = True, length: int = 12) -> None:
    save(attention(masked), folder)
    random = np.random.default_rng(3)
    mask = (np.arange(length) < random.integers(1, length + 1, (9, 1))).astype(np.int64)
    np.savez(folder / "sample.npz", ids=random.integers(1, 50, (9, length)) * mask, mask=mask)
    (folder / "openmaas.yaml").write_text(said)


def test_declared_padding_is_proved(folder: Path, look: Examine) -> None:
    write(folder, PADDING)
    found = look(sample="sample.npz")
    assert found.padding == Padding(pad={"ids": 0, "mask": 0}, trim=("tokens",))
    assert found.batchable


def test_nothing_declared_is_nothing_proved(folder: Path, look: Examine) -> None:
    write(folder, "")
    assert look(sample="sample.npz").padding is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (PADDING.replace("mask: 0", "mask: 1"), ["says padding", "'tokens' differs", "'mean' differs"]),
        ("padding: {pad: {ids: 0, mask: 0}}", ["'tokens' has shape [1, 1, 8] for a row of length 1"]),
        ("padding: {pad: {ids: 0, mask: 0}, trim: [tokens, mean]}", ["Axis 1 of 'mean' FP32 [-1, 8] is no sequence"]),
        ("padding: {pad: {ids: 0}, trim: [tokens]}", ["says padding"]),
        ("padding: {pad: {ids: 99, mask: 0}, trim: [tokens]}", ["says padding", "idx=99"]),
        ("padding: {pad: {words: 0}}", ["pad names 'words'; the model has 'ids', 'mask'"]),
        ("padding: {pad: {}}", ["no input"]),
        (f"padding: {{pad: {{ids: {2**63}, mask: 0}}}}", ["'ids' is filled up, is no INT64"]),
        ("padding: {pad: {ids: 0.5}}", ["$.padding.pad"]),
        ("padding: {fill: {ids: 0}}", ["unknown field", "$.padding"]),
        (PADDING + "batchable: false\n", ["may not share a batch"]),
    ],
)
def test_what_does_not_hold_is_refused(said: str, words: list[str], folder: Path, look: Examine) -> None:
    write(folder, said)
    with pytest.raises(InvalidInput) as caught:
        look(sample="sample.npz")
    assert caught.value.code in ("padding_not_proved", "invalid_description")
    for word in words:
        assert word in caught.value.message


def test_a_mask_that_is_not_heeded_is_found_out(folder: Path, look: Examine) -> None:
    write(folder, PADDING, masked=False)
    with pytest.raises(InvalidInput, match=r"says padding.*differs") as caught:
        look(sample="sample.npz")
    assert caught.value.code == "padding_not_proved"
    assert "remove it" in str(caught.value.next_step)


def test_without_real_rows_there_is_no_proof(folder: Path, look: Examine) -> None:
    write(folder, PADDING, length=1)
    with pytest.raises(InvalidInput, match="rows of two tokens or more"):
        look(sample="sample.npz")
    (folder / "sample.npz").unlink()
    with pytest.raises(InvalidInput, match="push with a sample"):
        look()


def test_a_format_that_proves_none_refuses_it(folder: Path, look: Examine) -> None:
    tensor = "[{name: x, datatype: FP32, shape: [-1, -1]}]"
    (folder / "openmaas.yaml").write_text(
        f"format: dummy\nsignature: {{inputs: {tensor}, outputs: {tensor}}}\npadding: {{pad: {{x: 0}}}}\n"
    )
    with pytest.raises(InvalidInput, match="nothing here proves for the format dummy"):
        look()


@pytest.mark.parametrize("heeds", [True, False])
def test_a_live_module_with_a_mask(heeds: bool, folder: Path, look: Examine) -> None:
    """What its export says is proved by the server, and dropped where it is not so."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    torch.manual_seed(2)

    class Mean(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 8)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            each = attention_mask.unsqueeze(-1).float()
            tokens = self.table(input_ids)
            return (tokens * each).sum(1) / each.sum(1) if heeds else tokens.mean(1) + each.sum(1)

    ids = torch.randint(1, 50, (8, 10))
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    exported = export(Mean(), sample, folder)
    found = look(sample=exported.sample, parity=exported.parity)
    assert found.engine == "onnxruntime"
    assert (found.padding is not None) is heeds
    if found.padding is not None:
        assert found.padding == Padding(pad={"input_ids": 0, "attention_mask": 0})
    assert any("padding is not proved here" in note for note in found.notes) is not heeds
