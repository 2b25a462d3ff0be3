"""`openmaas optimize` on a real server: from two datasets and a recipe to a version with proof and lineage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def save_net(path: Path) -> np.ndarray:
    """Two layers, 16 → 64 → 4; the weights of what they compute together, for labels that it answers rightly."""
    rng = np.random.default_rng(3)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 64), (64, 4)))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["scores"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return np.asarray(first @ second)


def test_a_recipe_from_the_command_line(server: Server, tmp_path: Path) -> None:
    both = save_net(tmp_path / "net.onnx")
    rows = np.random.default_rng(4).standard_normal((600, 16)).astype(np.float32)
    client = server.client()
    client.push(tmp_path / "net.onnx", name="net")
    for name, part in (("net-train", rows[:400]), ("net-test", rows[400:])):
        client.push_dataset({"x": part, "label": (part @ both).argmax(1)}, name=name)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 3\nsteps:\n  - quantize: {method: static}\n  - compress\n")

    words = ("optimize", "net", "--recipe", str(recipe), "--data", "net-train", "--eval", "net-test")
    done = server.run(*words, timeout=240)
    assert "net:2 made of net:1" in done.stdout
    # Which of two nets of microseconds is quicker, no machine says twice.
    assert "openmaas deploy net:2" in done.stdout or ("Keep net:1" in done.stdout and "openmaas show net:2" in done.stdout)
    made = client.show("net:2")
    assert made.parent == "net:1"
    assert "net-train:1" in str(made.recipe)
    assert "Made of net:1 by" in made.card
    assert "net:2" in server.run("lineage", "net:2").stdout

    recipe.write_text("steps:\n  - prune: {amuont: 0.5}\n")
    failed = server.run("optimize", "net", "--recipe", str(recipe), check=False)
    assert failed.returncode != 0
    assert "is 'amount' meant" in failed.stderr
    assert len(list(client.versions("net"))) == 2
