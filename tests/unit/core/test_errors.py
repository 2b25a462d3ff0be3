"""Every error keeps its class, code and hints over the wire."""

from __future__ import annotations

import msgspec
import pytest

from openmaas.core import errors
from openmaas.core.errors import EngineFailed, LinkLost, OpenMaaSError, Unavailable, WireError, http_body, without_paths

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OpenMaaSError)]


def over_the_wire(error: OpenMaaSError) -> OpenMaaSError:
    packed = msgspec.msgpack.encode(error.to_wire("r-1"))
    return OpenMaaSError.from_wire(msgspec.msgpack.decode(packed, type=WireError))


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_comes_back_as_itself(kind: type[OpenMaaSError]) -> None:
    back = over_the_wire(kind("what happened", next_step="do this", retry_after=2.5))
    assert type(back) is kind
    assert (back.message, back.next_step, back.retry_after, back.request_id) == ("what happened", "do this", 2.5, "r-1")
    assert (back.status, back.code) == (kind.status, kind.default_code)
    assert str(back) == "what happened do this"


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_a_place_in_the_tree_of_the_docstring(kind: type[OpenMaaSError]) -> None:
    assert f"{kind.__name__} " in (errors.__doc__ or "")
    assert f"{kind.status}  {kind.default_code}" in (errors.__doc__ or "")


def test_no_two_classes_share_a_code() -> None:
    codes = [kind.default_code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (OpenMaaSError, LinkLost)])
def test_a_code_of_its_own_keeps_the_class(kind: type[OpenMaaSError]) -> None:
    back = over_the_wire(kind("x", code="something_special"))
    assert type(back) is kind
    assert back.code == "something_special"


def test_a_refusal_of_a_full_replica_is_not_a_lost_one() -> None:
    """One may be tried elsewhere at once, the other may have done its work."""
    assert type(over_the_wire(Unavailable("full", code="queue_full"))) is Unavailable
    assert isinstance(over_the_wire(LinkLost("gone")), Unavailable)


@pytest.mark.parametrize("status", [200, 302, 405, 418, 502, 599, 0, -1])
def test_a_status_that_no_class_has_is_an_error_all_the_same(status: int) -> None:
    back = OpenMaaSError.from_wire(WireError(error="odd", code="odd_code", status=status))
    assert type(back) is OpenMaaSError
    assert (back.status, back.code, back.message) == (500, "odd_code", "odd")


def test_what_a_door_answers_with() -> None:
    full = EngineFailed("it broke", code="not_finite", next_step="ask for binary").to_wire("r-7")
    assert http_body(full) == {"error": "it broke", "code": "not_finite", "next_step": "ask for binary", "request_id": "r-7"}
    assert http_body(OpenMaaSError("x").to_wire()) == {"error": "x", "code": "internal"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("open /home/me/secret/model.onnx failed", "open model.onnx failed"),
        ("'/var/lib/a b'", "'a b'"),
        ("https://example.org/a/b is fine", "https://example.org/a/b is fine"),
        ("1/2 and a/b", "1/2 and a/b"),
        ("(/x/y/z.py:3)", "(z.py:3)"),
    ],
)
def test_a_library_s_message_loses_its_folders(said: str, told: str) -> None:
    assert without_paths(said) == told
