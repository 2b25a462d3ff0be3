"""What the child may take, and what its death looks like from outside. Approved pickles stand for whatever a library may do."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused, TooLarge, Unavailable
from openmaas.formats import sandbox
from openmaas.formats.files import sha256_of
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models
from tests.unit.formats.models import save

pytest.importorskip("skops")


@pytest.fixture
def warm() -> None:
    """Here the child is started as the program starts it."""


class Code:
    """Runs a line of Python when it is unpickled."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (self.line, {})


def run(line: str, folder: Path, look: Examine, **limits: Any) -> OpenMaaSError:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(Code(line)))
    with pytest.raises(OpenMaaSError) as caught:
        look(approved=frozenset({sha256_of(path)}), **limits)
    return caught.value


def test_a_crash_is_told_with_the_last_line_it_said(folder: Path, look: Examine) -> None:
    error = run(
        "import os, sys; sys.stderr.write('first\\nlast words of /usr/lib/some/file.c\\n'); sys.stderr.flush(); os.abort()",
        folder,
        look,
    )
    assert isinstance(error, Refused)
    assert error.code == "examine_crashed"
    assert "SIGABRT" in error.message
    assert "last words of file.c" in error.message


def test_memory_is_bounded(folder: Path, look: Examine) -> None:
    error = run("x = bytearray(3 << 30)", folder, look, memory=1 << 30)
    assert error.code == "examine_memory"
    assert str(1 << 30) in error.message
    assert "OPENMAAS_EXAMINE_MEMORY" in (error.next_step or "")


def test_a_file_too_large_is_not_written(folder: Path, look: Examine) -> None:
    line = "f = open('big', 'wb'); [f.write(bytes(1 << 26)) for _ in range(64)]"
    error = run(line, folder, look, memory=1 << 30)
    assert error.status in (400, 422)


def test_time_is_bounded_and_children_die_with_it(folder: Path, look: Examine, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    line = f"import subprocess; p = subprocess.Popen(['sleep', '600']); open({str(told)!r}, 'w').write(str(p.pid)); p.wait()"
    begun = time.monotonic()
    error = run(line, folder, look, timeout=10.0)
    assert error.code == "examine_timeout"
    assert time.monotonic() - begun < 60
    grandchild = int(told.read_text())
    for _ in range(1200):
        if not _lives(grandchild):
            break
        time.sleep(0.05)
    assert not _lives(grandchild)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_what_a_library_prints_does_not_spoil_the_reply(folder: Path, look: Examine) -> None:
    error = run("import os; os.write(1, b'{\"examined\": null}'); print('hello')", folder, look)
    assert error.code == "not_a_model"


def test_secrets_of_the_server_do_not_reach_the_child(
    folder: Path, look: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMAAS_DATABASE_URL", "postgresql://u:secret@h/d")
    told = tmp_path / "environment"
    run(f"import os; open({str(told)!r}, 'w').write(repr(dict(os.environ)))", folder, look)
    assert "secret" not in told.read_text()
    assert "OPENMAAS" not in told.read_text()


def test_nothing_is_left_behind(
    folder: Path, look: Examine, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    save(models.linear(), folder)
    before = set(os.listdir("/proc/self/fd"))
    found = look()
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in output.iterdir()) == sorted(found.added) == ["sample.npz"]
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_more_pushes_than_slots_wait_and_are_then_turned_away(
    folder: Path, look: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(models.linear(), folder)
    monkeypatch.setattr(sandbox, "_SLOTS", threading.BoundedSemaphore(1))
    assert look().batchable
    with sandbox._SLOTS, pytest.raises(Unavailable, match="being examined") as caught:
        look(timeout=0.1)
    assert caught.value.retry_after
    assert look().batchable


@pytest.mark.parametrize("line", ["import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_child_that_ends_without_a_reply(folder: Path, look: Examine, line: str) -> None:
    error = run(line, folder, look)
    assert isinstance(error, Refused)
    assert error.code in ("examine_failed", "examine_crashed")


def test_a_small_memory_is_enough_for_a_small_model(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    assert look(memory=512 << 20).batchable


def test_a_dataset_is_examined_in_a_child(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n1,x\n2,y\n")
    found = sandbox.examine_dataset(tmp_path, label=None, timeout=60, memory=2 << 30)
    assert (found.format, found.entry, found.classes, found.rows) == ("csv", "t.csv", ("x", "y"), 2)
    with pytest.raises(InvalidInput, match="no column 'b'"):
        sandbox.examine_dataset(tmp_path, label="b", timeout=60, memory=2 << 30)


def test_a_dataset_that_takes_too_much_memory_or_time(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n" + "1,x\n" * 2_000_000)
    with pytest.raises(TooLarge) as large:
        sandbox.examine_dataset(tmp_path, label=None, timeout=60, memory=250 << 20)
    assert large.value.code == "dataset_too_large" and "OPENMAAS_EXAMINE_MEMORY" in str(large.value.next_step)
    with pytest.raises(Refused, match="Examining the dataset took longer"):
        sandbox.examine_dataset(tmp_path, label=None, timeout=0.3, memory=2 << 30)
