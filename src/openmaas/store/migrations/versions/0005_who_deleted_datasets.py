"""Who deleted a dataset's version, and why where it was in use."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("dataset_versions", sa.Column("deleted_by", NAME, nullable=True))
    op.add_column("dataset_versions", sa.Column("deleted_for", sa.Text(), nullable=True))
