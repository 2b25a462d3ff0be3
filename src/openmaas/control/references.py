"""From the names that people write to rows: `digits`, `digits:3`, `digits@champion`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.names import Reference, check_alias, check_name, parse_reference
from openmaas.store.tables import AliasRow, DatasetRow, DatasetVersionRow, ModelRow, VersionRow


def find_model(session: Session, project: str, name: str) -> ModelRow:
    """The model, or NotFound. A model without versions does not exist."""
    query = select(ModelRow).where(ModelRow.project == project, ModelRow.name == check_name(name), ModelRow.versions > 0)
    model = session.scalar(query)
    if model is None:
        raise NotFound(
            f"There is no model {name!r}.", code="model_not_found", next_step="openmaas ls shows the models that there are."
        )
    return model


def find_version(session: Session, project: str, reference: str | Reference) -> tuple[ModelRow, VersionRow]:
    """The version that a reference means now. Raises InvalidInput for what is no reference, NotFound for no such version."""
    target = parse_reference(reference) if isinstance(reference, str) else reference
    model = find_model(session, project, target.model)
    number = target.number
    if number is None:
        number = _alias_number(session, model, target.alias) if target.alias else model.latest
    query = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == number)
    known = number is not None and 0 < number <= model.last_number  # beyond it, a number may be more than a database holds
    version = session.scalar(query.where(VersionRow.deleted_at.is_(None))) if known else None
    if version is None:
        raise NotFound(
            f"There is no version {model.name}:{number}; the newest is {model.name}:{model.latest}.",
            code="version_not_found",
            next_step=f"openmaas show {model.name} names its versions.",
        )
    return model, version


def find_dataset(session: Session, project: str, reference: str) -> tuple[DatasetRow, DatasetVersionRow]:
    """A dataset's version: digits-test (its newest) or digits-test:2. Raises InvalidInput, NotFound."""
    target = parse_reference(reference)
    if target.alias is not None:
        raise InvalidInput(
            f"{reference[:80]!r}: datasets have no aliases.", code="invalid_name", next_step=f"Write {target.model}:NUMBER."
        )
    query = select(DatasetRow).where(DatasetRow.project == project, DatasetRow.name == target.model, DatasetRow.versions > 0)
    dataset = session.scalar(query)
    if dataset is None:
        raise NotFound(
            f"There is no dataset {target.model!r}.",
            code="dataset_not_found",
            next_step="openmaas data ls shows those that there are; openmaas data push FILE --name NAME makes one.",
        )
    number = target.number if target.number is not None else dataset.latest
    rows = select(DatasetVersionRow).where(DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.number == number)
    known = number is not None and 0 < number <= dataset.last_number
    version = session.scalar(rows.where(DatasetVersionRow.deleted_at.is_(None))) if known else None
    if version is None:
        raise NotFound(
            f"There is no dataset version {dataset.name}:{number}; the newest is {dataset.name}:{dataset.latest}.",
            code="dataset_not_found",
            next_step=f"openmaas data show {dataset.name} names its versions.",
        )
    return dataset, version


def _alias_number(session: Session, model: ModelRow, alias: str) -> int:
    row = session.get(AliasRow, (model.id, check_alias(alias)))
    if row is None:
        raise NotFound(
            f"{model.name} has no alias {alias!r}.",
            code="alias_not_found",
            next_step=f"openmaas alias {model.name}:{model.latest} {alias} sets it.",
        )
    return row.number
