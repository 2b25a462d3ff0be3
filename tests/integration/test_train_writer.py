"""The example that trains a writer: two steps of it leave a folder that transformers loads and that names its held-out text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_writer" / "train.py"
pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_leaves_a_folder_that_can_be_pushed(tmp_path: Path) -> None:
    folder = tmp_path / "writer"
    words = [sys.executable, str(EXAMPLE), str(folder), "--steps", "2", "--batch", "1", "--threads", "1"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=500, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Perplexity on the held-out text" in ended.stdout
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert config["vocab_size"] == len(tokenizer["model"]["vocab"]) and config["max_position_embeddings"] == 512
    assert "sample: held_out.txt" in (folder / "openmaas.yaml").read_text()
    assert len((folder / "held_out.txt").read_text()) > 100_000
    assert "add_generation_prompt" in (folder / "chat_template.jinja").read_text()
    assert (folder / "model.safetensors").stat().st_size > 5_000_000
