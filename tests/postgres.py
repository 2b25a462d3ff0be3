"""A real PostgreSQL for the tests: Debian's programs, a data folder and port of its own, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg


class NoPostgres(Exception):
    """Why there is none here."""


class Postgres:
    """A running server. Ended by whoever started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid4().hex}"
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"


def _programs() -> Path:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres("PostgreSQL is not installed (Debian: apt-get install postgresql).")


def _other_user() -> str | None:
    """PostgreSQL refuses to run as root, so root lends it the user that Debian's package makes."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise NoPostgres("PostgreSQL does not run as root, and there is no user 'postgres' here.") from None


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """A server that listens on a socket in `folder` only. Raises NoPostgres where that is impossible."""
    programs, user = _programs(), _other_user()
    folder.chmod(0o755)
    data, log = folder / "data", folder / "postgres.log"
    if user:
        shutil.chown(folder, user)
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    made = subprocess.run(initdb, user=user, cwd=folder, capture_output=True, text=True, timeout=180)
    if made.returncode:
        raise NoPostgres(f"initdb failed: {made.stderr.strip()[-300:]}")
    command = [
        programs / "postgres",
        "-D",
        data,
        "-k",
        folder,
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=off",
        "-c",
        "shared_buffers=16MB",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, user=user, cwd=folder, stdout=output, stderr=output)
    try:
        _wait(server, folder, log)
        yield Postgres(folder)
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(60)


def _wait(server: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            raise NoPostgres(f"postgres ended at once: {log.read_text()[-300:]}")
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
            return
        time.sleep(0.05)
    raise NoPostgres("postgres did not answer within 60 s.")
