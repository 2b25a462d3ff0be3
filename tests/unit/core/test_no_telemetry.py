"""Nothing that we load phones home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SAVE = """
import onnx
from onnx import TensorProto, helper
from pathlib import Path
value = helper.make_tensor_value_info
nodes = [helper.make_node("Identity", ["X"], ["Y"])]
graph = helper.make_graph(nodes, "g", [value("X", TensorProto.FLOAT, [1])], [value("Y", TensorProto.FLOAT, [1])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
path = Path("model.onnx")
onnx.save(model, path)
"""

_ONNXRUNTIME = """
from openmaas.engines.onnxruntime.session import OnnxSession
OnnxSession(path)
path.unlink()
"""

_OPENVINO = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("it reaches for the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from openmaas.engines.openvino.model import OpenVinoModel
OpenVinoModel(path, "onnx")
assert "openvino.tools.ovc" in sys.modules, "what sends the data at import is loaded, and has nothing to send them with"
path.unlink()
"""


def test_onnxruntime_keeps_no_telemetry(tmp_path: Path) -> None:
    """Where it is on, it leaves a session file and a database behind."""
    assert _left_behind(_ONNXRUNTIME, tmp_path) == []


def test_openvino_keeps_no_telemetry(tmp_path: Path) -> None:
    """A bare `import openvino` sends an event, and leaves the id that it gave to this machine in ~/intel."""
    assert _left_behind(_OPENVINO, tmp_path) == []


def _left_behind(load: str, home: Path) -> list[Path]:
    """The files in a home of its own after a model was loaded, where nothing says that this is a test or a CI job."""
    told = ("ORT_", "XDG_", "CI", "GITHUB_", "BUILD_", "JENKINS_", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    environment |= {"HOME": str(home), "TMPDIR": str(home)}
    subprocess.run([sys.executable, "-c", _SAVE + load], env=environment, cwd=home, check=True)
    return list(home.rglob("*"))
