from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from openmaas.core.errors import Cancelled, Refused
from openmaas.tasks.locks import file_lock, measuring_lock

HOLD = """
import sys, time
from pathlib import Path
from openmaas.tasks.locks import file_lock
with file_lock(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(100)
"""


def test_one_at_a_time_holds_it(tmp_path: Path) -> None:
    spans: list[tuple[float, float]] = []

    def hold() -> None:
        with file_lock(tmp_path / "lock", lambda: None):
            began = time.monotonic()
            time.sleep(0.05)
            spans.append((began, time.monotonic()))

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans.sort()
    assert len(spans) == 4
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_it_ends_with_the_process_that_holds_it_and_waiting_is_told(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        waited: list[None] = []

        def waiting() -> None:
            waited.append(None)
            if len(waited) == 2:
                holder.kill()

        with file_lock(tmp_path / "lock", waiting):
            assert len(waited) >= 2


def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise Cancelled("enough")

    with file_lock(tmp_path / "lock", lambda: None), pytest.raises(Cancelled), file_lock(tmp_path / "lock", give_up):
        raise AssertionError("it was held twice")


def test_a_file_that_somebody_removes_is_no_lock_any_more(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path, lambda: None):
        path.unlink()

        def waiting() -> None:
            raise AssertionError("a new file is free")

        with file_lock(path, waiting), pytest.raises(Cancelled), file_lock(path, _cancel):
            raise AssertionError("it was held twice")


def _cancel() -> None:
    raise Cancelled("enough")


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="lock"), file_lock(tmp_path / "lock", lambda: None):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_measurements_share_a_lock_whatever_their_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with measuring_lock(lambda: None):
        [path] = tmp_path.iterdir()
        assert str(os.getuid()) in path.name
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(Cancelled), measuring_lock(_cancel):
            pass
