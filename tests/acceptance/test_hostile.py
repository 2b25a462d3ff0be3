"""The corpus of hostile files, pushed to the real program: each is refused, no code runs, and it lives on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import openmaas

pytest.importorskip("torch")
pytest.importorskip("h5py")
pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")
pytest.importorskip("transformers")
pytest.importorskip("jinja2")

from openmaas.core.errors import OpenMaaSError

from . import hostile_generators
from .conftest import Server, alive, make_server, stop_all

CORPUS = hostile_generators.CORPUS  # which has taken in its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = make_server(tmp_path_factory.mktemp("home"), measure="never", examine_memory=2 << 30, examine_timeout=60)
    server.up()
    yield server
    stop_all(server)


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_and_does_nothing(server: Server, tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "model"
    folder.mkdir()
    CORPUS[name](folder, canary)
    assert any(folder.iterdir()) and not canary.exists(), "the corpus itself must not run anything"
    client = server.client()
    before, outside = _pids(client), sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OpenMaaSError) as caught:
        client.push(folder, name="hostile")
    assert 400 <= caught.value.status < 500, caught.value
    assert str(tmp_path) not in str(caught.value) and str(server.home) not in str(caught.value)
    assert not canary.exists(), "code of the file ran"
    assert sorted(path.name for path in tmp_path.iterdir()) == outside
    assert _pids(client) == before and all(alive(pid) for pid in before.values())
    assert list(client.models()) == []


def _pids(client: openmaas.Client) -> dict[str, int]:
    return {process.name: process.pid for process in client.status().processes if process.pid}


def test_a_good_model_is_served_after_all_of_them(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy("good"), name="good")
    client.deploy("good")
    assert list(client.predict("good", [[1.0, 2.0]]))
