"""Who may pass, and how much at once."""

from __future__ import annotations

import pytest

from openmaas.core.contracts import Key
from openmaas.core.errors import Forbidden, TooLarge, Unauthenticated, Unavailable
from openmaas.core.keys import digest_key, make_key
from openmaas.gateway.gate import Gate

KEY = make_key()


def gate(**limits: int) -> Gate:
    one = Gate(**({"max_body": 100, "max_in_flight": 3, "max_in_flight_bytes": 250} | limits))
    one.update([Key(id="a", digest=digest_key(KEY), role="admin", project="default")])
    return one


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [(f"Bearer {KEY}", None), (f"bearer   {KEY} ", None), (f"BEARER {KEY}", "ignored"), (None, KEY)],
)
def test_a_key_in_either_header_passes(authorization: str | None, api_key: str | None) -> None:
    assert gate().authenticate(authorization, api_key).id == "a"


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (None, None),
        (None, ""),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        (KEY, None),
        (f"Basic {KEY}", None),
        (f"Bearer{KEY}", None),
        (f"Bearer {KEY[:-1]}", None),
        (f"Bearer {KEY}, Bearer {KEY}", None),
        (f"Bearer {make_key()}", None),
        (f"Bearer {make_key()}", KEY),  # a wrong credential is not overlooked because a right one stands beside it
        (None, KEY.upper()),
        (None, "ключ"),
        (None, "\xff\x00"),
        (None, "k" * 100_000),
        (None, digest_key(KEY)),
    ],
)
def test_nothing_else_does(authorization: str | None, api_key: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        gate().authenticate(authorization, api_key)
    assert caught.value.next_step
    assert len(str(caught.value)) < 400


def test_an_unknown_key_and_a_mistyped_one_are_told_apart() -> None:
    with pytest.raises(Unauthenticated, match="not known"):
        gate().authenticate(None, make_key())
    with pytest.raises(Unauthenticated, match="mistyped"):
        gate().authenticate(None, KEY[:-1] + ("x" if KEY[-1] != "x" else "y"))


def test_a_revoked_key_is_gone_with_the_next_list() -> None:
    one = gate()
    one.update([])
    with pytest.raises(Unauthenticated):
        one.authenticate(None, KEY)


def test_before_control_has_spoken_nobody_passes() -> None:
    with pytest.raises(Unauthenticated):
        Gate(max_body=1, max_in_flight=1, max_in_flight_bytes=1).authenticate(None, KEY)


def test_a_key_is_good_for_its_own_project() -> None:
    one = gate()
    one.authorize(Key(id="a", digest="", role="admin", project="x"), "y")
    one.authorize(Key(id="a", digest="", role="caller", project="y"), "y")
    with pytest.raises(Forbidden):
        one.authorize(Key(id="a", digest="", role="caller", project="x"), "y")


def test_places_are_counted_and_given_back() -> None:
    one = gate()
    for size in (100, 100, 50):
        one.enter(size)
    with pytest.raises(Unavailable) as caught:
        one.enter(0)
    assert caught.value.code == "gateway_full"
    assert caught.value.retry_after
    assert "OPENMAAS_MAX_IN_FLIGHT" in caught.value.message
    one.leave(50)
    with pytest.raises(Unavailable):
        one.enter(51)
    one.enter(50)
    for size in (100, 100, 50):
        one.leave(size)
    assert (one.in_flight, one.in_flight_bytes) == (0, 0)


def test_a_body_over_the_limit_takes_no_place() -> None:
    one = gate()
    with pytest.raises(TooLarge, match="OPENMAAS_MAX_BODY"):
        one.enter(101)
    assert (one.in_flight, one.in_flight_bytes) == (0, 0)


def test_a_body_that_grows_is_bounded_too() -> None:
    one = gate()
    one.enter(100)
    one.enter(0)
    one.grow(150)
    with pytest.raises(Unavailable):
        one.grow(1)
    one.leave(150)
    one.leave(100)
    assert one.in_flight_bytes == 0
