"""The two databases that the registry runs on (a test that asks for `settings`, `database` or `registry` runs on both), and an
examiner that has its libraries already."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from openmaas.core.settings import Settings
from openmaas.formats import sandbox
from openmaas.store.database import Database, open_database
from openmaas.store.tables import Base
from tests.integration.registry import Registry
from tests.integration.warm_examiner import WarmExaminer
from tests.postgres import NoPostgres, Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix=f"openmaas-pg-{os.getpid()}-"))  # short: a socket's path has about 100 bytes
    try:
        with running_postgres(folder) as server:
            yield server
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL here: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """One database for all tests, its tables made once."""
    url = postgres.fresh_database()
    open_database(Settings(database_url=url)).close()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    open_database(Settings(home=str(folder))).close()
    return folder / "openmaas.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name a database without any table."""
    url = request.getfixturevalue("postgres").fresh_database() if request.param == "postgres" else ""
    return Settings(home=str(tmp_path / "home"), database_url=url)


@pytest.fixture
def sqlite_settings(sqlite_template: Path, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(sqlite_template, home)
    (home / "openmaas.db").chmod(0o600)
    return Settings(home=str(home), chunk_size=2**16)


@pytest.fixture
def postgres_settings(postgres_url: str, tmp_path: Path) -> Settings:
    """The database emptied, which is much quicker than a new one. A test that changes its tables takes `empty_settings`."""
    home, tables = tmp_path / "home", ", ".join(Base.metadata.tables)
    home.mkdir(mode=0o700)
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
    return Settings(home=str(home), database_url=postgres_url, chunk_size=2**16)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest) -> Settings:
    chosen: Settings = request.getfixturevalue(f"{request.param}_settings")
    return chosen


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.close()


class Clock:
    """Time that tests move on by hand. It starts now, since files carry the system's time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(settings: Settings, database: Database, clock: Clock) -> Registry:
    return Registry(settings, database, clock)


@pytest.fixture(scope="session")
def warm_examiner() -> Iterator[WarmExaminer]:
    examiner = WarmExaminer()
    yield examiner
    examiner.close()


@pytest.fixture
def warm(warm_examiner: WarmExaminer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are examined by a process that has its libraries already: seconds less for each."""
    monkeypatch.setattr(sandbox, "_start", warm_examiner.start)
