"""Alembic runs this file. The connection comes from store/database.py, already inside a write transaction."""

from alembic import context

from openmaas.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite can do it too, since database.py begins its transactions itself: a killed migration leaves nothing behind.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
