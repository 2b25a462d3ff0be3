"""Measurements of engines, and the engine of each revision."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("processor", sa.String(255), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("measurements_version", "measurements", ["project", "digest", "processor", "id"], unique=False)
    op.add_column("deployment_revisions", sa.Column("engine", sa.Text()))
    op.add_column("deployment_revisions", sa.Column("measuring", sa.String(32)))
