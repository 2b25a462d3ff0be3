"""How the script of the environment is run; what it does is for tests with that environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import DeadlineExceeded, InvalidInput
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature
from openmaas.formats.causal import converters
from openmaas.formats.causal.converters import CausalToOpenVinoGenai
from openmaas.formats.converters import Conversion


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`convert(script)`: the artifact, the lines and the stages."""

    def run(script: str, timeout: float = 30.0) -> tuple[Artifact, list[str], list[str]]:
        path = tmp_path / "script.py"
        path.write_text(script)
        monkeypatch.setattr(converters, "_SCRIPT", path)
        lines: list[str] = []
        stages: list[str] = []
        output = tmp_path / "output"
        output.mkdir()
        manifest = Manifest(
            format="causal", engine="", entry="config.json", signature=Signature(inputs=(), outputs=()), files=()
        )
        made = CausalToOpenVinoGenai().convert(
            Conversion(
                folder=tmp_path / "model", artifact=Artifact(kind="causal", entry="inner/config.json"), manifest=manifest,
                sample={}, output=output, python=Path(sys.executable),
                options={"weights": ["int8"], "prompts": [[1, 2]], "timeout": timeout}, log=lines.append, tell=stages.append,
            )
        )  # fmt: skip
        return made, lines, stages

    return run


def test_it_is_told_what_to_do_and_sees_nothing_else(convert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENMAAS_API_KEY", "secret")
    made, lines, stages = convert(
        "import json, os, sys\nprint('stage: exporting')\nprint(sys.stdin.read())\nprint(json.dumps(sorted(os.environ)))\n"
        "print()\n"
    )
    assert made == Artifact(kind="openvino-genai", entry="openvino_model.xml")
    assert stages == ["exporting"]
    request = json.loads(lines[0])
    assert request["weights"] == ["int8"]
    assert request["prompts"] == [[1, 2]]
    assert set(json.loads(lines[1])) <= {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "HOME", "TMPDIR"}
    assert len(lines) == 2


def test_what_it_said_last_is_the_cause(convert: Any) -> None:
    with pytest.raises(InvalidInput, match=r"cannot convert this model: ValueError: no such architecture\.") as failed:
        convert("import sys\nprint('loading')\nprint('ValueError: no such architecture')\nsys.exit(1)\n")
    assert failed.value.code == "conversion_failed"


def test_a_signal_that_ends_it_is_told(convert: Any) -> None:
    with pytest.raises(InvalidInput, match="ended by signal 9; it may have needed more memory"):
        convert("import os\nos.kill(os.getpid(), 9)\n")


def test_it_has_no_more_time_than_is_allowed(convert: Any) -> None:
    with pytest.raises(DeadlineExceeded, match=r"longer than 0.3 s \(OPENMAAS_CONVERT_TIMEOUT\)"):
        convert("import time\ntime.sleep(60)\n", timeout=0.3)
