"""The two databases that the registry runs on. A test that asks for `settings` or `database` runs on both."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmaas.core.settings import Settings
from openmaas.store.database import Database, open_database
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


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("postgres").fresh_database() if request.param == "postgresql" else ""
    return Settings(home=str(tmp_path / "home"), database_url=url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.close()
