"""A process that has had OpenVINO in it still takes signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino_genai")
from tests.tiny_gguf import write_gguf
from tests.tiny_writer import make_writer

# The plugin goes in another thread than the one that loaded it, as a replica's engine does.
SCRIPT = """
import gc, os, signal, sys, threading
from pathlib import Path
from openmaas.engines.openvino_genai.pipeline import PipelineOptions, open_pipeline

held = [open_pipeline(Path(sys.argv[1]), PipelineOptions(threads=1, step=64), blocks=16, prefix_cache=False)]

def let_go():
    held.clear()
    gc.collect()

thread = threading.Thread(target=let_go)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("taken"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_openvino_is_gone_is_taken(tmp_path: Path) -> None:
    model = write_gguf(make_writer(tmp_path / "writer"), tmp_path / "writer.gguf")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(model)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr
