"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
PATH = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
DIGEST = sa.String(64)
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("project", NAME, nullable=False),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", "sha256"),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("serving", sa.Integer()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project", "name"),
    )
    op.create_table(
        "keys",
        sa.Column("id", NAME, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "models",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("latest", sa.Integer()),
        sa.Column("format", sa.String(64)),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project", "name"),
    )
    op.create_index("models_listing", "models", ["project", "versions", "name"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("id", DIGEST, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("model_id", IDENTITY, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("number", sa.Integer()),
        sa.Column("previous", sa.Integer()),
        sa.Column("base", IDENTITY),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["base"], ["alias_moves.id"]),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("alias_moves_history", "alias_moves", ["model_id", "id"], unique=False)
    op.create_table(
        "upload_files",
        sa.Column("upload_id", DIGEST, nullable=False),
        sa.Column("path", PATH, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("known", sa.Boolean(), nullable=False),
        sa.Column("added", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("upload_id", "path"),
    )
    op.create_index("upload_files_blob", "upload_files", ["sha256"], unique=False)
    op.create_table(
        "versions",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("model_id", IDENTITY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("format", sa.String(64), nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("parent", sa.String(255)),
        sa.Column("recipe", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("deleted_at", sa.Double()),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model_id", "number"),
    )
    op.create_index("versions_digest", "versions", ["digest"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("model_id", IDENTITY, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version_id", IDENTITY, nullable=False),
        sa.Column("move_id", IDENTITY, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.ForeignKeyConstraint(["move_id"], ["alias_moves.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("model_id", "alias"),
    )
    op.create_index("aliases_version", "aliases", ["version_id"], unique=False)
    op.create_table(
        "deployment_revisions",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("deployment_id", IDENTITY, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version_id", IDENTITY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("base", sa.Integer()),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("deployment_id", "revision"),
    )
    op.create_index("deployment_revisions_version", "deployment_revisions", ["version_id"], unique=False)
    op.create_table(
        "version_files",
        sa.Column("version_id", IDENTITY, nullable=False),
        sa.Column("path", PATH, nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id", "path"),
    )
    op.create_index("version_files_blob", "version_files", ["sha256", "project"], unique=False)
