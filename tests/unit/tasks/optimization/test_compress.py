"""Packing a model: the same answers from a smaller file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Compress
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.tasks.optimization.base import UNPACKED, Piece
from openmaas.tasks.optimization.graphs import strip
from openmaas.tasks.optimization.passes import compress, find_pass


def write(folder: Path, weights: np.ndarray[Any, Any], **save: Any) -> Piece:
    folder.mkdir()
    axis = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weights)])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer", doc_string="where it came from " * 50)
    graph = helper.make_graph([node], "g", [axis], [out], [numpy_helper.from_array(weights, "w")], doc_string="d" * 999)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx", **save)
    return Piece(artifact=Artifact(kind="onnx", entry="model.onnx"), folder=folder, manifest=None)  # type: ignore[arg-type]


def bench(folder: Path) -> Any:
    folder.mkdir()
    return SimpleNamespace(folder=folder, progress=lambda stage, done, total: None, log=lambda line: None)


@pytest.mark.parametrize("external", [False, True])
def test_a_sparse_model_becomes_smaller_and_answers_the_same(tmp_path: Path, external: bool) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    weights[np.abs(weights) < 1.6] = 0  # nine in ten
    apart = {"save_as_external_data": True, "location": "weights", "size_threshold": 0} if external else {}
    piece = write(tmp_path / "before", weights, **apart)
    packed = find_pass(Compress()).run(piece, Compress(), bench(tmp_path / "after"))
    assert packed.path.stat().st_size < 64 * 64 * 4 / 4
    assert packed.facts["packed"]["after"] == packed.path.stat().st_size
    x = {"x": np.ones((3, 64), np.float32)}
    assert np.array_equal(*(OnnxSession(one.path).session.run(None, x)[0] for one in (piece, packed)))


def test_once_it_is_packed_nobody_is_told_to_pack_it(tmp_path: Path) -> None:
    piece = replace(write(tmp_path / "before", np.zeros((64, 64), np.float32)), notes=("another", UNPACKED))
    assert compress.run(piece, Compress(), bench(tmp_path / "after")).notes == ("another",)


def test_what_cannot_shrink_stays_with_a_note(tmp_path: Path) -> None:
    piece = write(tmp_path / "before", np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    first = compress.run(piece, Compress(), bench(tmp_path / "once"))
    again = compress.run(first, Compress(), bench(tmp_path / "twice"))
    assert again.path == first.path
    assert "packed already" in again.notes[-1]


def test_words_for_people_are_left_out(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "before", np.eye(2, dtype=np.float32)).path)
    strip(model)
    assert b"where it came from" not in model.SerializeToString()
    onnx.checker.check_model(model)
