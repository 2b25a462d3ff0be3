from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from openmaas.core.errors import Cancelled, NotFound, Unavailable
from openmaas.tasks.interpreters import Interpreters
from openmaas.tasks.process import ENVIRONMENTS


class FakeRun:
    """Makes what venv would make; `status` of the second command, which installs; `does` comes before it."""

    def __init__(self, status: int = 0, does: Callable[[], object] = lambda: None) -> None:
        self.commands: list[list[str]] = []
        self.status = status
        self.does = does

    def __call__(self, command: Sequence[str]) -> int:
        self.commands.append(list(command))
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            return 0
        self.does()
        return self.status


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "tiny.txt").write_text("nothing==1.0\n")
    return folder


def left(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "kept").iterdir() if path.is_dir()]


def test_it_is_made_once_and_kept(tmp_path: Path, sources: Path) -> None:
    run, told = FakeRun(), list[str]()
    interpreters = Interpreters(tmp_path / "kept", sources, run)
    python = interpreters.get("tiny", told.append)
    assert told == ["making the environment tiny", "installing the environment tiny"]
    assert [command[1:3] for command in run.commands] == [["-m", "venv"], ["-m", "pip"]]
    assert run.commands[1][0] == str(python) and run.commands[1][-1] == str(sources / "tiny.txt")
    assert Interpreters(tmp_path / "kept", sources, run).get("tiny", told.append) == python
    assert len(run.commands) == 2 and len(told) == 2


def test_another_list_is_another_environment(tmp_path: Path, sources: Path) -> None:
    interpreters = Interpreters(tmp_path / "kept", sources, FakeRun())
    first = interpreters.get("tiny", lambda stage: None)
    (sources / "tiny.txt").write_text("nothing==2.0\n")
    assert interpreters.get("tiny", lambda stage: None) != first


def test_what_fails_leaves_nothing_and_says_so(tmp_path: Path, sources: Path) -> None:
    run = FakeRun(status=1)
    interpreters = Interpreters(tmp_path / "kept", sources, run)
    with pytest.raises(Unavailable, match="pip install") as failed:
        interpreters.get("tiny", lambda stage: None)
    assert failed.value.code == "environment_failed" and str(tmp_path) not in str(failed.value)
    assert left(tmp_path) == []
    run.status = 0
    assert interpreters.get("tiny", lambda stage: None).parent.is_dir()


def test_being_cancelled_leaves_nothing(tmp_path: Path, sources: Path) -> None:
    def cancel() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        Interpreters(tmp_path / "kept", sources, FakeRun(does=cancel)).get("tiny", lambda stage: None)
    assert left(tmp_path) == []


def test_a_half_made_one_is_made_anew(tmp_path: Path, sources: Path) -> None:
    """As after a kill in the middle."""
    run = FakeRun()
    interpreters = Interpreters(tmp_path / "kept", sources, run)
    folder = interpreters.get("tiny", lambda stage: None).parents[1]
    (folder / "ready").unlink()
    (folder / "rubbish").write_text("")
    interpreters.get("tiny", lambda stage: None)
    assert len(run.commands) == 4
    assert not (folder / "rubbish").exists()


def test_two_that_need_it_make_it_once(tmp_path: Path, sources: Path) -> None:
    run, told = FakeRun(does=lambda: time.sleep(0.3)), list[str]()
    made: list[Path] = []

    def get() -> None:
        made.append(Interpreters(tmp_path / "kept", sources, run).get("tiny", told.append))

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and len(set(made)) == 1 and len(run.commands) == 2
    assert any("which another job makes" in stage for stage in told)


@pytest.mark.parametrize("name", ["none", "", "../sources/tiny", "tiny.txt", "TINY", "a" * 100])
def test_an_unknown_one_is_named_with_those_that_are_known(tmp_path: Path, sources: Path, name: str) -> None:
    with pytest.raises(NotFound, match="known are: tiny"):
        Interpreters(tmp_path / "kept", sources, FakeRun()).get(name, lambda stage: None)


def test_those_that_we_bring_name_exact_versions() -> None:
    for path in ENVIRONMENTS.glob("*.txt"):
        lines = [line.strip() for line in path.read_text().splitlines()]
        assert [line for line in lines if line and line[0] not in "#-" and "==" not in line] == [], path.name


@pytest.mark.timeout(120)
def test_a_real_one_without_any_package_runs(tmp_path: Path, sources: Path) -> None:
    (sources / "empty.txt").write_text("# nothing\n")
    python = Interpreters(tmp_path / "kept", sources).get("empty", lambda stage: None)
    code = "import sys; print(sys.prefix != sys.base_prefix, sys.version)"
    told = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"True {sys.version}".strip()
