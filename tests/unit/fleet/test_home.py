import os
from pathlib import Path

import pytest

from openmaas.core.errors import Conflict, Refused
from openmaas.core.settings import Settings, prepare_runtime
from openmaas.fleet.home import (
    Running,
    clear_temporary,
    is_locked,
    lock_home,
    prepare_home,
    read_note,
    temporary_folder,
    tidy_runtime,
    write_note,
)

RUNNING = Running(pid=1, control_url="http://c", gateway_url="http://g", started_at=1.5, version="0")


def test_one_server_for_each_home(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    prepare_home(settings)
    with lock_home(settings):
        with pytest.raises(Conflict, match=rf"pid {os.getpid()}.*openmaas down") as caught, lock_home(settings):
            pass
        assert caught.value.code == "already_running"
    with lock_home(settings):
        pass


def test_the_note_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    prepare_home(settings)
    assert read_note(settings) is None
    with lock_home(settings):
        write_note(settings, RUNNING)
        assert read_note(settings) == RUNNING
        assert (tmp_path / "run" / "supervisor.json").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "run" / "supervisor.json").exists()


def test_the_note_of_a_server_that_was_killed_counts_for_nothing(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    prepare_home(settings)
    write_note(settings, RUNNING)
    assert not is_locked(settings)
    assert read_note(settings) is None


def test_what_killed_processes_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), runtime_dir=str(tmp_path / "run-dir"))
    prepare_home(settings)
    left = temporary_folder(settings) / "openmaas-examine-x"
    left.mkdir(parents=True)
    (left / "stdout").write_bytes(b"half")
    clear_temporary(settings)
    assert list(temporary_folder(settings).iterdir()) == []
    assert temporary_folder(settings).stat().st_mode & 0o777 == 0o700


def test_the_folder_of_the_sockets_goes_unless_something_else_lies_in_it(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), runtime_dir=str(tmp_path / "sockets"))
    folder = prepare_runtime(settings)
    (folder / "control.sock").touch()
    tidy_runtime(settings)
    assert not folder.exists()
    prepare_runtime(settings)
    (folder / "control.sock").touch()
    (folder / "mine").touch()
    tidy_runtime(settings)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_home_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="OPENMAAS_HOME"):
        prepare_home(Settings(home=str(tmp_path / "file" / "home")))
