import time

import pytest
from sqlalchemy import insert, select

from openmaas.core.errors import Conflict, InvalidInput, NotFound
from openmaas.core.resources import VersionChange
from openmaas.store.tables import AliasRow, DeploymentRevisionRow, DeploymentRow, ModelRow, VersionRow
from tests.integration.registry import Registry, digest


def deploy(registry: Registry, name: str, model: str, number: int, state: str = "ready") -> None:
    """Rows as control/deployments.py leaves them."""
    with registry.database.write() as session:
        model_row = session.scalars(select(ModelRow).where(ModelRow.name == model)).one()
        version = session.scalars(
            select(VersionRow).where(VersionRow.model_id == model_row.id, VersionRow.number == number)
        ).one()
        row = DeploymentRow(
            project="default", name=name, model=model, revision=1, serving=1, state=state, actor="a", created_at=1, updated_at=1
        )
        session.add(row)
        session.flush()
        session.add(
            DeploymentRevisionRow(
                deployment_id=row.id, project="default", revision=1, model=model, version_id=version.id, number=number,
                action="deploy", state="ready", options="{}", actor="a", at=1,
            )
        )  # fmt: skip


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_begins_with_its_first_version(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.models.get("digits")
    registry.push("digits", {"model.bin": b"12345"})
    found = registry.models.get("digits")
    assert (found.versions, found.latest, found.format, found.size, found.aliases) == (1, 1, "dummy", 5, {})


def test_models_are_listed_by_name_in_pages(registry: Registry) -> None:
    for name in ("b", "a", "C", "a-2", "d", "a.3"):
        registry.push(name)
    names, after = [], None
    for _ in range(10):
        page = registry.models.list(after=after, limit=2)
        assert page.total == 6
        assert len(page.items) <= 2
        names += [item.name for item in page.items]
        after = page.next
        if after is None:
            break
    assert names == sorted(["b", "a", "C", "a-2", "d", "a.3"])  # byte by byte, whatever the database's locale


def test_a_prefix_is_a_prefix_and_no_pattern(registry: Registry) -> None:
    for name in ("digits", "digits-2", "Digits", "dig_ts", "other"):
        registry.push(name)
    assert [item.name for item in registry.models.list(prefix="digits").items] == ["digits", "digits-2"]
    assert [item.name for item in registry.models.list(prefix="dig_").items] == ["dig_ts"]
    assert registry.models.list(prefix="%").total == 0
    assert registry.models.list(prefix="dig", limit=2).total == 3


@pytest.mark.parametrize(
    "bad", [{"limit": 0}, {"limit": 501}, {"limit": -1}, {"prefix": "é"}, {"after": "\0"}, {"prefix": "a\x7f"}]
)
def test_a_listing_refuses_what_makes_no_sense(registry: Registry, bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        registry.models.list(**bad)  # type: ignore[arg-type]


def test_aliases_are_shown_with_each_model(registry: Registry) -> None:
    for name in ("a", "b"):
        registry.push(name)
    registry.aliases.set("a", "champion", 1, actor="admin")
    assert {item.name: item.aliases for item in registry.models.list().items} == {"a": {"champion": 1}, "b": {}}


def test_a_deleted_model_is_gone_and_its_numbers_are_not_given_again(registry: Registry) -> None:
    registry.push("digits", {"m": b"one"})
    registry.push("digits", {"m": b"two"})
    registry.aliases.set("digits", "champion", 2, actor="admin")
    registry.models.delete("digits", actor="admin")
    with pytest.raises(NotFound):
        registry.models.get("digits")
    with pytest.raises(NotFound):
        registry.versions.get("digits:1")
    assert registry.models.list().total == 0
    assert registry.push("digits", {"m": b"one"}).version.number == 3
    assert registry.models.get("digits").aliases == {}
    assert [move.action for move in registry.aliases.history("digits").items] == ["remove", "set"]


def test_a_deployed_model_is_not_deleted(registry: Registry) -> None:
    registry.push("digits")
    deploy(registry, "front", "digits", 1)
    with pytest.raises(Conflict, match=r"deployment 'front' runs digits:1") as conflict:
        registry.models.delete("digits", actor="admin")
    assert conflict.value.next_step
    assert registry.models.get("digits").versions == 1


def test_a_stopped_deployment_holds_nothing(registry: Registry) -> None:
    registry.push("digits")
    deploy(registry, "front", "digits", 1, state="stopped")
    registry.models.delete("digits", actor="admin")


def test_ten_thousand_models_are_listed_in_milliseconds(registry: Registry) -> None:
    rows = [
        {"project": "default", "name": f"model-{n:05}", "last_number": 3, "versions": 3, "latest": 3, "format": "onnx",
         "size": 1, "created_at": 1.0, "updated_at": 1.0}
        for n in range(10_000)
    ]  # fmt: skip
    with registry.database.write() as session:
        session.execute(insert(ModelRow), rows)
    registry.models.list(limit=100)
    best = min(_seconds(lambda: registry.models.list(after="model-05000", limit=100)) for _ in range(5))
    assert best < 0.05
    page = registry.models.list(after="model-09998", limit=100)
    assert ([item.name for item in page.items], page.total, page.next) == (["model-09999"], 10_000, None)


def _seconds(call: object) -> float:
    began = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - began


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_versions_are_listed_newest_first_in_pages(registry: Registry) -> None:
    for n in range(5):
        registry.push("digits", {"m": b"%d" % n})
    first = registry.versions.list("digits", limit=2)
    assert ([item.number for item in first.items], first.total) == ([5, 4], 5)
    second = registry.versions.list("digits", limit=2, after=first.next)
    last = registry.versions.list("digits", limit=2, after=second.next)
    assert ([item.number for item in second.items], [item.number for item in last.items], last.next) == ([3, 2], [1], None)


def test_a_page_of_versions_is_bounded_in_bytes(registry: Registry) -> None:
    for n in range(3):
        registry.push("digits", {"m": b"%d" % n}, card="x" * 200_000)
    from openmaas.control import versions

    before = versions._PAGE_BYTES
    versions._PAGE_BYTES = 450_000
    try:
        page = registry.versions.list("digits")
        assert ([item.number for item in page.items], page.next) == ([3, 2], "2")
        assert [item.number for item in registry.versions.list("digits", after="2").items] == [1]
    finally:
        versions._PAGE_BYTES = before


@pytest.mark.parametrize("after", ["x", "-1", "99999999999999999999", "²", ""])
def test_a_page_that_was_never_given_is_refused(registry: Registry, after: str) -> None:
    registry.push("digits")
    with pytest.raises(InvalidInput):
        registry.versions.list("digits", after=after)


def test_a_version_is_found_by_number_alias_and_as_the_newest(registry: Registry) -> None:
    registry.push("digits", {"m": b"one"})
    registry.push("digits", {"m": b"two"})
    registry.aliases.set("digits", "champion", 1, actor="admin")
    assert [registry.versions.get(name).number for name in ("digits", "digits:1", "digits@champion")] == [2, 1, 1]
    assert registry.versions.get("digits:1").aliases == ["champion"]


@pytest.mark.parametrize("reference", ["other", "digits:2", "digits@none", "digits:999999999"])
def test_what_is_not_there_is_not_found(registry: Registry, reference: str) -> None:
    registry.push("digits")
    with pytest.raises(NotFound) as missing:
        registry.versions.get(reference)
    assert missing.value.next_step


@pytest.mark.parametrize(
    "reference", ["", "digits:", "digits:0", "digits:-1", "digits@", "../digits", "digits:1:2", "a" * 64, "digits:²"]
)
def test_what_is_no_reference_is_refused(registry: Registry, reference: str) -> None:
    with pytest.raises(InvalidInput):
        registry.versions.get(reference)


def test_another_project_sees_nothing(registry: Registry) -> None:
    registry.push("digits")
    assert registry.models.list(project="other").total == 0
    with pytest.raises(NotFound):
        registry.models.get("digits", project="other")
    with pytest.raises(NotFound):
        registry.versions.read_file("digits", "model.bin", project="other")
    with pytest.raises(NotFound):
        registry.models.delete("digits", actor="x", project="other")


def test_metadata_and_card_change_and_the_rest_does_not(registry: Registry) -> None:
    before = registry.push("digits", metadata={"a": 1}, card="old").version
    registry.versions.change("digits:1", VersionChange(metadata={"b": [1, {"c": None}]}))
    changed = registry.versions.change("digits:1", VersionChange(card="# new\nétude"))
    assert (changed.metadata, changed.card) == ({"b": [1, {"c": None}]}, "# new\nétude")
    assert changed.digest == before.digest
    assert registry.versions.get("digits:1") == changed


def test_a_deleted_version_is_gone_and_the_next_newest_takes_its_place(registry: Registry) -> None:
    registry.push("digits", {"m": b"one"})
    registry.push("digits", {"m": b"three"})
    registry.versions.delete("digits:2")
    with pytest.raises(NotFound):
        registry.versions.get("digits:2")
    found = registry.models.get("digits")
    assert (found.versions, found.latest, found.size) == (1, 1, 3)
    assert registry.push("digits", {"m": b"three"}).version.number == 3


def test_the_last_version_takes_the_model_with_it(registry: Registry) -> None:
    registry.push("digits")
    registry.versions.delete("digits:1")
    with pytest.raises(NotFound):
        registry.models.get("digits")
    assert registry.push("digits").version.number == 2


def test_a_version_with_an_alias_is_not_deleted(registry: Registry) -> None:
    registry.push("digits")
    registry.aliases.set("digits", "champion", 1, actor="admin")
    with pytest.raises(Conflict, match="digits@champion") as conflict:
        registry.versions.delete("digits:1")
    assert conflict.value.next_step == "openmaas alias digits@champion --remove, or move it to another version."
    registry.aliases.remove("digits", "champion", actor="admin")
    registry.versions.delete("digits:1")


def test_a_deployed_version_is_not_deleted(registry: Registry) -> None:
    registry.push("digits", {"m": b"one"})
    registry.push("digits", {"m": b"two"})
    deploy(registry, "front", "digits", 1)
    with pytest.raises(Conflict, match="'front'"):
        registry.versions.delete("digits:1")
    registry.versions.delete("digits:2")


def test_deleting_needs_a_number_or_an_alias(registry: Registry) -> None:
    registry.push("digits")
    with pytest.raises(InvalidInput):
        registry.versions.delete("digits")
    assert registry.models.get("digits").versions == 1


def test_the_files_of_a_version_are_read(registry: Registry) -> None:
    registry.push("digits", {"model.bin": b"weights", "data/labels.txt": b"a\nb"})
    entry, chunks = registry.versions.read_file("digits", "data/labels.txt")
    assert (entry.size, entry.sha256, b"".join(chunks)) == (3, digest(b"a\nb"), b"a\nb")
    for path in ("labels.txt", "../model.bin", "model.bin/", "", "a\0b", "x" * 5000):
        with pytest.raises(NotFound):
            registry.versions.read_file("digits", path)


def test_the_row_of_an_alias_names_its_move(registry: Registry) -> None:
    registry.push("digits")
    move = registry.aliases.set("digits", "champion", 1, actor="admin")
    with registry.database.read() as session:
        assert session.scalars(select(AliasRow.move_id)).one() == move.id
