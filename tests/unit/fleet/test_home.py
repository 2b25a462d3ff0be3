import os
from pathlib import Path

import pytest

from openmaas.core.errors import Conflict, Refused
from openmaas.core.settings import Settings
from openmaas.fleet.home import Running, is_locked, lock_home, prepare_home, read_note, write_note

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


def test_a_home_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="OPENMAAS_HOME"):
        prepare_home(Settings(home=str(tmp_path / "file" / "home")))
