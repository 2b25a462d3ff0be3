"""Datasets, evaluations and gates."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
FILE_PATH = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project", "name"),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("dataset_id", IDENTITY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("dataset_id", "number"),
    )
    op.create_index("dataset_versions_digest", "dataset_versions", ["project", "digest"], unique=False)
    op.create_table(
        "dataset_files",
        sa.Column("version_id", IDENTITY, nullable=False),
        sa.Column("path", FILE_PATH, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"]),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"]),
        sa.PrimaryKeyConstraint("version_id", "path"),
    )
    op.create_index("dataset_files_blob", "dataset_files", ["sha256", "project"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(255), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("evaluations_version", "evaluations", ["project", "digest", "dataset_digest", "id"], unique=False)
    op.create_table(
        "variants",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("baseline", sa.String(255), nullable=False),
        sa.Column("dominated", sa.Boolean(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("variants_version", "variants", ["project", "digest", "id"], unique=False)
    op.create_table(
        "gates",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("model_id", IDENTITY, nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("rules", sa.Text(), nullable=True),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("gates_target", "gates", ["model_id", "target", "name", "id"], unique=False)
    op.create_table(
        "gate_decisions",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("gate_id", IDENTITY, nullable=False),
        sa.Column("model_id", IDENTITY, nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("previous", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("checks", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"]),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("gate_decisions_history", "gate_decisions", ["model_id", "id"], unique=False)
    op.create_index("versions_parent", "versions", ["project", "parent"], unique=False)
