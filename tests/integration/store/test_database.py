import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text

from openmaas.core.errors import InvalidInput, Refused, StorageFull, Unavailable
from openmaas.core.settings import Settings
from openmaas.store import database as module
from openmaas.store import migrations
from openmaas.store.database import Database, next_value, open_database
from openmaas.store.tables import ApprovalRow, Base, CounterRow


def approval(number: int) -> ApprovalRow:
    return ApprovalRow(project="default", sha256=f"{number:064x}", reason="", actor="admin", at=1.0)


def test_the_migrations_give_exactly_the_tables_that_the_code_uses(empty_settings: Settings) -> None:
    database = open_database(empty_settings)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_a_database_of_the_first_program_is_brought_up_to_date_with_all_that_is_in_it(
    empty_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "HEAD", "0001")
        first = open_database(empty_settings)
        assert not inspect(first.engine).has_table("jobs")
        with first.write() as session:
            session.add(approval(1))
        first.close()
    database = open_database(empty_settings)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    with database.read() as session:
        assert session.scalars(select(ApprovalRow.sha256)).all() == [f"{1:064x}"]
    database.close()


def test_head_names_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [migrations.HEAD]


def test_a_database_that_is_up_to_date_opens_without_alembic(settings: Settings) -> None:
    open_database(settings).close()
    code = (
        "import sys; from openmaas.core.settings import Settings; from openmaas.store.database import open_database;"
        "open_database(Settings(home=sys.argv[1], database_url=sys.argv[2])).close(); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, settings.home, settings.database_url], check=True, timeout=30)


def test_a_database_of_a_newer_program_is_refused(empty_settings: Settings) -> None:
    database = open_database(empty_settings)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(Refused) as refused:
        open_database(empty_settings)
    assert refused.value.code == "database_version"


def test_a_write_is_seen_after_its_end_and_not_at_all_after_an_exception(database: Database) -> None:
    with database.write() as session:
        session.add(approval(1))
    with pytest.raises(KeyError), database.write() as session:
        session.add(approval(2))
        session.flush()
        raise KeyError
    with database.read() as session:
        assert session.scalars(select(ApprovalRow.sha256)).all() == [f"{1:064x}"]


def test_a_read_keeps_its_view_while_others_write(database: Database) -> None:
    if database.dialect == "sqlite" and module.journal_mode() != "WAL":
        pytest.skip("with a rollback journal a commit waits for the readers")
    with database.read() as session:
        assert session.scalars(select(ApprovalRow.sha256)).all() == []
        with database.write() as writer:
            writer.add(approval(1))
        assert session.scalars(select(ApprovalRow.sha256)).all() == []


def test_writers_queue_and_each_sees_what_the_last_one_wrote(database: Database) -> None:
    other = Database(database.engine)  # as from another process: it shares no lock with the first
    failures: list[BaseException] = []

    def count(through: Database) -> None:
        try:
            for _ in range(10):
                with through.write() as session:
                    next_value(session, "snapshot")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count, args=(through,)) for through in (database, other) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.read() as session:
        assert session.get_one(CounterRow, "snapshot").value == 60


def test_a_foreign_key_is_kept(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"), database.write() as session:
        session.execute(
            text("INSERT INTO version_files (version_id, path, project, sha256, size) VALUES (7, 'a', 'default', 'b', 1)")
        )


def test_sqlite_is_durable_and_waits_for_others(tmp_path: Path) -> None:
    database = open_database(Settings(home=str(tmp_path)))
    with database.read() as session:
        values = {name: session.scalar(text(f"PRAGMA {name}")) for name in ("synchronous", "foreign_keys", "busy_timeout")}
        journal = session.scalar(text("PRAGMA journal_mode"))
    assert values == {"synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    assert journal == ("wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "delete")
    assert (tmp_path / "openmaas.db").stat().st_mode & 0o777 == 0o600
    database.close()


@pytest.mark.parametrize(
    ("version", "mode"), [((3, 40, 1), "DELETE"), ((3, 51, 2), "DELETE"), ((3, 51, 3), "WAL"), ((4, 0, 0), "WAL")]
)
def test_wal_only_with_a_sqlite_that_is_safe_with_it(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], mode: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    assert module.journal_mode() == mode


def test_a_full_disk_is_told_as_one_and_changes_nothing(tmp_path: Path) -> None:
    database = open_database(Settings(home=str(tmp_path)))
    with database.read() as session:
        pages = session.scalar(text("PRAGMA page_count"))
    with pytest.raises(StorageFull), database.write() as session:
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
        session.add_all(approval(number) for number in range(5000))
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM approvals")) == 0
    database.close()


def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as unavailable:
        open_database(Settings(home=str(tmp_path), database_url="postgresql://nobody:secret@127.0.0.1:1/none"))
    assert "secret" not in str(unavailable.value)


@pytest.mark.parametrize("url", ["mysql://a@b/c", "not a url", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_used_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="OPENMAAS_DATABASE_URL"):
        open_database(Settings(home=str(tmp_path), database_url=url))


def test_a_writer_that_never_ends_makes_the_next_one_give_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    with database.write():
        outcome: list[BaseException] = []

        def second() -> None:
            try:
                with database.write():
                    pass
            except Unavailable as error:
                outcome.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(5)
    assert len(outcome) == 1


def test_a_killed_migration_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_upgrade", lambda connection: (Base.metadata.create_all(connection), time.sleep(0), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        open_database(Settings(home=str(tmp_path)))
    monkeypatch.undo()
    database = open_database(Settings(home=str(tmp_path)))
    assert database.migrate() is False
    database.close()
