import threading

import pytest

from openmaas.core.errors import Conflict, InvalidInput, NotFound
from tests.integration.registry import Registry


@pytest.fixture
def four(registry: Registry) -> Registry:
    for n in range(4):
        registry.push("digits", {"m": b"%d" % n})
    registry.changes = 0
    return registry


def set_to(registry: Registry, *numbers: int) -> None:
    for number in numbers:
        registry.aliases.set("digits", "champion", number, actor="admin")


def roll_back(registry: Registry) -> int | None:
    return registry.aliases.rollback("digits", "champion", actor="admin").number


def test_a_move_says_what_was_before(four: Registry) -> None:
    set_to(four, 1)
    move = four.aliases.set("digits", "champion", 3, actor="ada")
    assert (move.number, move.previous, move.action, move.actor) == (3, 1, "set", "ada")
    assert four.versions.get("digits@champion").number == 3


def test_every_move_stays_in_the_history_newest_first(four: Registry) -> None:
    set_to(four, 1, 2)
    roll_back(four)
    four.aliases.remove("digits", "champion", actor="admin")
    moves = four.aliases.history("digits").items
    assert [(move.action, move.number, move.previous) for move in moves] == [
        ("remove", None, 1),
        ("rollback", 1, 2),
        ("set", 2, 1),
        ("set", 1, None),
    ]


def test_the_history_comes_in_pages(four: Registry) -> None:
    set_to(four, 1, 2, 3, 4, 1)
    first = four.aliases.history("digits", limit=3)
    second = four.aliases.history("digits", limit=3, after=first.next)
    assert ([move.number for move in first.items], first.total) == ([1, 4, 3], 5)
    assert ([move.number for move in second.items], second.next) == ([2, 1], None)


def test_rolling_back_again_walks_further_back(four: Registry) -> None:
    set_to(four, 1, 2, 3)
    assert [roll_back(four), roll_back(four)] == [2, 1]
    with pytest.raises(Conflict) as nothing:
        roll_back(four)
    assert nothing.value.code == "nothing_before"
    assert four.versions.get("digits@champion").number == 1


def test_a_move_after_a_rollback_begins_anew_from_there(four: Registry) -> None:
    set_to(four, 1, 2, 3)
    roll_back(four)
    set_to(four, 4)
    assert [roll_back(four), roll_back(four)] == [2, 1]


def test_a_rollback_after_a_removal_brings_the_alias_back(four: Registry) -> None:
    set_to(four, 1, 2)
    four.aliases.remove("digits", "champion", actor="admin")
    assert [roll_back(four), roll_back(four)] == [2, 1]


def test_what_was_unset_before_is_unset_again(four: Registry) -> None:
    set_to(four, 1)
    four.aliases.remove("digits", "champion", actor="admin")
    set_to(four, 3)
    assert roll_back(four) is None
    with pytest.raises(NotFound):
        four.versions.get("digits@champion")
    assert roll_back(four) == 1


def test_setting_what_is_set_adds_nothing(four: Registry) -> None:
    set_to(four, 1, 2, 2, 2)
    assert len(four.aliases.history("digits").items) == 2
    assert roll_back(four) == 1


def test_a_rollback_to_a_deleted_version_is_refused(four: Registry) -> None:
    set_to(four, 1, 2)
    four.versions.delete("digits:1")
    with pytest.raises(Conflict) as gone:
        roll_back(four)
    assert gone.value.code == "version_deleted"
    assert four.versions.get("digits@champion").number == 2


def test_aliases_move_apart(four: Registry) -> None:
    set_to(four, 1, 2)
    four.aliases.set("digits", "candidate", 4, actor="admin")
    assert roll_back(four) == 1
    assert four.models.get("digits").aliases == {"candidate": 4, "champion": 1}


def test_gateways_are_told_of_each_move_and_only_of_moves(four: Registry) -> None:
    set_to(four, 1, 2, 2)
    roll_back(four)
    four.aliases.remove("digits", "champion", actor="admin")
    assert four.changes == 4
    with pytest.raises(NotFound):
        four.aliases.remove("digits", "champion", actor="admin")
    assert four.changes == 4


@pytest.mark.parametrize("number", [0, -1, 5, 10**30])
def test_an_alias_stands_at_a_version_that_exists(four: Registry, number: int) -> None:
    with pytest.raises(NotFound):
        set_to(four, number)
    assert four.aliases.history("digits").total == 0


@pytest.mark.parametrize("alias", ["", "1st", "a b", "x" * 64, "é", "a/b", "a\n"])
def test_an_alias_has_a_name(four: Registry, alias: str) -> None:
    with pytest.raises(InvalidInput):
        four.aliases.set("digits", alias, 1, actor="admin")


def test_an_unknown_alias_cannot_be_rolled_back(four: Registry) -> None:
    with pytest.raises(NotFound):
        roll_back(four)


def test_moves_at_once_leave_one_line_of_history(four: Registry) -> None:
    failures: list[BaseException] = []

    def move(number: int) -> None:
        try:
            for _ in range(5):
                set_to(four, number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    moves = list(reversed(four.aliases.history("digits").items))
    assert [move.previous for move in moves] == [None, *(move.number for move in moves[:-1])]
    assert four.models.get("digits").aliases["champion"] == moves[-1].number
