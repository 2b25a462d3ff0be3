from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from openmaas.client.server import Server, find_server, read_run_file
from openmaas.core.errors import InvalidInput, Unavailable


def _run(home: Path, pid: int) -> None:
    (home / "run").mkdir()
    told = {"pid": pid, "control_url": "http://127.0.0.1:9001", "gateway_url": "http://127.0.0.1:9002", "ready": True}
    (home / "run" / "supervisor.json").write_bytes(msgspec.json.encode(told))
    (home / "admin.key").write_text("omk_local\n")


def test_a_local_server_is_found_by_its_home(tmp_path: Path) -> None:
    _run(tmp_path, os.getpid())
    expected = Server("http://127.0.0.1:9001", "http://127.0.0.1:9002", "omk_local")
    assert find_server(home=tmp_path, environment={}) == expected
    assert find_server(environment={"OPENMAAS_HOME": str(tmp_path)}) == expected


def test_arguments_win_over_the_environment() -> None:
    environment = {"OPENMAAS_URL": "http://a:1", "OPENMAAS_GATEWAY_URL": "http://a:2", "OPENMAAS_API_KEY": "k"}
    assert find_server(environment=environment) == Server("http://a:1", "http://a:2", "k")
    found = find_server("https://b", gateway_url="https://c:3/base/", api_key="other", ca="/ca.pem", environment=environment)
    assert found == Server("https://b", "https://c:3/base", "other", "/ca.pem")


def test_the_other_url_is_the_same_host_at_its_default_port() -> None:
    assert find_server("https://b:9", environment={}).gateway_url == "https://b:8000"
    assert find_server(gateway_url="http://[::1]:9", environment={}).control_url == "http://[::1]:8080"


def test_the_local_key_goes_to_the_local_server_only(tmp_path: Path) -> None:
    _run(tmp_path, os.getpid())
    assert find_server("http://127.0.0.1:9001/", home=tmp_path, environment={}).api_key == "omk_local"
    assert find_server("http://elsewhere:9001", home=tmp_path, environment={}).api_key == ""


def test_a_server_that_does_not_run_is_told_with_its_home(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="openmaas up") as raised:
        find_server(home=tmp_path, environment={})
    assert raised.value.code == "not_running"
    assert str(tmp_path) in raised.value.message


def test_an_old_note_of_a_dead_server_counts_for_nothing(tmp_path: Path) -> None:
    _run(tmp_path, 2**22 + 1)  # beyond the kernel's largest process id
    assert read_run_file(tmp_path) is None
    (tmp_path / "run" / "supervisor.json").write_text("{")
    assert read_run_file(tmp_path) is None


@pytest.mark.parametrize("url", ["server:8080", "ftp://a", "http://", "http://a:99999", "http://u:p@a", "http://a?x=1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="not a server's URL"):
        find_server(url, environment={})
