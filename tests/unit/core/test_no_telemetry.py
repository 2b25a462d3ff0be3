"""Nothing that we load phones home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_LOAD = """
import onnx
from onnx import TensorProto, helper
from pathlib import Path
value = helper.make_tensor_value_info
nodes = [helper.make_node("Identity", ["X"], ["Y"])]
graph = helper.make_graph(nodes, "g", [value("X", TensorProto.FLOAT, [1])], [value("Y", TensorProto.FLOAT, [1])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
path = Path("model.onnx")
onnx.save(model, path)
from openmaas.engines.onnx_session import OnnxSession
OnnxSession(path)
path.unlink()
"""


def test_onnxruntime_keeps_no_telemetry(tmp_path: Path) -> None:
    """Where it is on, it leaves a session file and a database behind."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-c", _LOAD],
        env={**environment, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        check=True,
    )
    assert list(tmp_path.rglob("*")) == []
