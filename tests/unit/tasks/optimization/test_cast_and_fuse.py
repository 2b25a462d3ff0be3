"""Weights in 16 bits, and what can be computed at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.recipes import Cast, Fuse, Quantize
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.checks import require_finite
from openmaas.tasks.optimization.passes import cast, find_pass, fuse, quantize
from tests.unit.tasks.optimization.graphs_for_tests import answers, bench, network, pictures, piece, read, weights


@pytest.mark.parametrize(("to", "far"), [("fp16", 0.02), ("bf16", 0.2)])
def test_a_cast_halves_the_file_and_answers_stay(tmp_path: Path, to: str, far: float) -> None:
    before = network(tmp_path / "model")
    made = cast.run(before, Cast(to=to), bench(tmp_path / "bench"))  # type: ignore[arg-type]
    facts = made.facts["cast"]
    assert facts["bytes"][0] / facts["bytes"][1] > 1.8
    rows = pictures().inputs
    assert 0 < np.abs(answers(made, rows) - answers(before, rows)).max() < far
    assert made.notes[-1].startswith("4 weights are kept in")


def test_excluded_nodes_keep_their_weights(tmp_path: Path) -> None:
    made = cast.run(network(tmp_path / "model"), Cast(exclude=("gemm",)), bench(tmp_path / "bench"))
    assert {"gemm.w", "gemm.b"} <= {tensor.name for tensor in read(made).graph.initializer}
    with pytest.raises(InvalidInput, match="no such node"):
        cast.run(network(tmp_path / "other"), Cast(exclude=("lstm",)), bench(tmp_path / "second"))


def test_what_fp16_cannot_hold_is_refused_with_its_name(tmp_path: Path) -> None:
    array = weights(32, 32)
    array[1, 1] = -70_000
    before = piece(tmp_path / "m", [helper.make_node("MatMul", ["x", "head.w"], ["y"], name="n")], {"head.w": array}, (32,))
    with pytest.raises(Refused, match=r"'head\.w' hold 70000, and fp16 ends at 65504"):
        cast.run(before, Cast(), bench(tmp_path / "bench"))
    cast.run(before, Cast(to="bf16"), bench(tmp_path / "second"))


def test_nothing_to_cast_is_refused(tmp_path: Path) -> None:
    before = piece(tmp_path / "m", [helper.make_node("Relu", ["x"], ["y"])], {}, (4,))
    with pytest.raises(Refused, match="no node has float32 weights"):
        cast.run(before, Cast(), bench(tmp_path / "bench"))


def normalised(folder: Path) -> Piece:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], name="norm"),
        helper.make_node("Flatten", ["n"], ["y"], name="flat"),
    ]
    tensors = {
        "w": weights(4, 1, 3, 3), "b": weights(4), "scale": weights(4, seed=1), "shift": weights(4, seed=2),
        "mean": weights(4, seed=3), "variance": np.abs(weights(4, seed=4)),
    }  # fmt: skip
    return piece(folder, nodes, tensors, (1, 8, 8))


@pytest.mark.parametrize("what", ["batch-norm", "all"])
def test_batch_normalisation_goes_into_the_convolution(tmp_path: Path, what: str) -> None:
    before = normalised(tmp_path / "model")
    made = fuse.run(before, Fuse(what=what), bench(tmp_path / "bench"))  # type: ignore[arg-type]
    assert {node.op_type for node in read(made).graph.node} <= {"Conv", "Flatten", "Reshape"}
    assert made.facts["fuse"]["gone"]["BatchNormalization"] == 1
    rows = pictures().inputs
    assert np.allclose(answers(made, rows), answers(before, rows), atol=1e-4)
    assert all(node.domain == "" for node in read(made).graph.node)
    assert [path.name for path in made.folder.iterdir()] == ["model.onnx"]


def test_constants_are_folded(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    before = piece(tmp_path / "m", nodes, {"a": weights(4), "b": weights(4, seed=1)}, (4,), width=4)
    made = fuse.run(before, Fuse(what="graph"), bench(tmp_path / "bench"))
    assert [node.op_type for node in read(made).graph.node] == ["Mul"] and made.facts["fuse"]["nodes"] == [2, 1]


def test_nothing_to_fuse_is_a_note(tmp_path: Path) -> None:
    before = piece(tmp_path / "m", [helper.make_node("Relu", ["x"], ["y"], name="n")], {}, (4,))
    made = fuse.run(before, Fuse(), bench(tmp_path / "bench"))
    assert made.notes[-1] == "There was nothing to fuse." and made.path == before.path


def test_weights_of_few_bits_are_not_made_floats_again(tmp_path: Path) -> None:
    small = quantize.run(network(tmp_path / "model"), Quantize(method="affine", bits=4), bench(tmp_path / "one"))
    made = fuse.run(small, Fuse(), bench(tmp_path / "two"))
    assert made.path.stat().st_size < small.path.stat().st_size * 1.05
    assert any("few bits" in note for note in made.notes)


def test_infinity_is_no_fault_where_it_is_a_mask(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Equal", ["x", "zeros"], ["e"]),
        helper.make_node("Where", ["e", "mask", "x"], ["y"]),
    ]
    mask = np.full((2, 2), -np.inf, np.float32)
    require_finite(read(piece(tmp_path / "m", nodes, {"mask": mask, "zeros": np.zeros((2, 2), np.float32)}, (2,))))


def test_they_are_found_by_their_names_however_often() -> None:
    for step, module in ((Cast(), cast), (Fuse(), fuse), (Cast(), cast)):
        assert find_pass(step) is module  # type: ignore[comparison-overlap]
