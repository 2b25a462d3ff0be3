import os
from pathlib import Path

import pytest
from sqlalchemy import select

from openmaas.control.keys import KeyService
from openmaas.core.errors import InvalidInput, Refused, Unauthenticated
from openmaas.core.keys import digest_key, looks_like_key, make_key
from openmaas.store.tables import KeyRow
from tests.integration.registry import Registry


def started_again(registry: Registry) -> KeyService:
    return KeyService(registry.settings, registry.database, lambda: None)


def key_file(registry: Registry) -> Path:
    return registry.settings.home_path / "admin.key"


def test_the_first_start_makes_a_key_and_tells_it_once(registry: Registry) -> None:
    key = registry.keys.ensure_admin()
    assert key is not None
    assert looks_like_key(key)
    assert registry.keys.ensure_admin() is None
    assert started_again(registry).ensure_admin() is None
    assert registry.changes == 1


def test_the_key_lies_in_a_file_for_this_user_alone(registry: Registry) -> None:
    before = os.umask(0)
    try:
        key = registry.keys.ensure_admin()
    finally:
        os.umask(before)
    assert key_file(registry).read_text().strip() == key
    assert key_file(registry).stat().st_mode & 0o777 == 0o600


def test_only_the_digest_is_stored(registry: Registry) -> None:
    key = registry.keys.ensure_admin() or ""
    with registry.database.read() as session:
        [row] = session.scalars(select(KeyRow)).all()
    assert row.digest == digest_key(key)
    assert key not in repr(vars(row))


def test_the_key_opens(registry: Registry) -> None:
    key = registry.keys.ensure_admin()
    principal = registry.keys.authenticate(key)
    assert (principal.id, principal.role, principal.project) == ("admin", "admin", "default")
    assert started_again(registry).authenticate(key) == principal


@pytest.mark.parametrize("text", [None, "", "x", "omk_", "omk_" + "é" * 38, "omk_" + "0" * 38, "a" * 10**6, "\0", "omk_\ud800"])
def test_what_is_no_key_does_not_open(registry: Registry, text: str | None) -> None:
    registry.keys.ensure_admin()
    with pytest.raises(Unauthenticated):
        registry.keys.authenticate(text)


def test_an_unknown_key_does_not_open(registry: Registry) -> None:
    registry.keys.ensure_admin()
    with pytest.raises(Unauthenticated):
        registry.keys.authenticate(make_key())
    key = registry.keys.authenticate(key_file(registry).read_text().strip())
    assert key.id == "admin"


def test_nothing_opens_before_there_is_a_key(registry: Registry) -> None:
    with pytest.raises(Unauthenticated):
        registry.keys.authenticate(make_key())


def test_a_revoked_key_stops_at_once(registry: Registry) -> None:
    key = registry.keys.ensure_admin()
    registry.keys.revoke("admin")
    with pytest.raises(Unauthenticated):
        registry.keys.authenticate(key)
    with pytest.raises(Unauthenticated):
        started_again(registry).authenticate(key)
    assert registry.changes == 2


def test_a_missing_file_harms_nobody_who_has_the_key(registry: Registry) -> None:
    key = registry.keys.ensure_admin()
    key_file(registry).unlink()
    again = started_again(registry)
    assert again.ensure_admin() is None
    assert not key_file(registry).exists()
    assert again.authenticate(key).id == "admin"


def test_an_empty_file_replaces_a_lost_key(registry: Registry) -> None:
    old = registry.keys.ensure_admin()
    key_file(registry).write_text("")
    again = started_again(registry)
    new = again.ensure_admin()
    assert again.authenticate(new).id == "admin-2"
    assert key_file(registry).read_text().strip() == new
    with pytest.raises(Unauthenticated):
        again.authenticate(old)


def test_a_key_that_was_written_but_not_stored_is_taken_up(registry: Registry) -> None:
    """As after a kill between the two."""
    key = make_key()
    key_file(registry).write_text(key)
    assert registry.keys.ensure_admin() is None
    assert registry.keys.authenticate(key).id == "admin"


@pytest.mark.parametrize("content", [b"hello", b"\xff\xfe", b"omk_short"])
def test_a_file_with_something_else_stops_the_start(registry: Registry, content: bytes) -> None:
    key_file(registry).write_bytes(content)
    with pytest.raises(Refused) as refused:
        registry.keys.ensure_admin()
    assert refused.value.next_step
    assert key_file(registry).read_bytes() == content


def test_a_revoked_key_in_the_file_stops_the_start(registry: Registry) -> None:
    registry.keys.ensure_admin()
    registry.keys.revoke("admin")
    with pytest.raises(Refused, match="revoked"):
        started_again(registry).ensure_admin()


def test_a_link_in_the_files_place_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    key_file(registry).symlink_to(elsewhere)
    registry.keys.ensure_admin()
    assert elsewhere.read_text() == ""
    assert not key_file(registry).is_symlink()


def test_approvals_are_kept_by_digest(registry: Registry) -> None:
    first = registry.approvals.approve("a" * 64, reason="I made it", actor="ada")
    assert registry.approvals.approve("a" * 64, reason="again", actor="bob") == first
    registry.approvals.approve("b" * 64, reason="", actor="ada")
    assert [approval.sha256 for approval in registry.approvals.list()] == ["b" * 64, "a" * 64]
    assert registry.approvals.digests() == {"a" * 64, "b" * 64}
    assert registry.approvals.digests(project="other") == frozenset()
    for bad in ("", "A" * 64, "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(InvalidInput):
            registry.approvals.approve(bad, reason="", actor="ada")
    with pytest.raises(InvalidInput):
        registry.approvals.approve("c" * 64, reason="nul\0", actor="ada")
