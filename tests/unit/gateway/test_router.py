"""From a name to a replica: choice, retry, hold, swap; with replicas on real links in this process."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openmaas.core.contracts import Health
from openmaas.core.errors import InvalidInput, LinkLost, NotFound, OpenMaaSError, Unavailable
from openmaas.core.link import IncomingCall
from openmaas.core.settings import Settings
from openmaas.gateway import endpoint as endpoint_module
from openmaas.gateway import forward as forward_module
from openmaas.gateway.forward import Forward, ask
from openmaas.gateway.router import Router
from tests.unit.gateway.replicas import FakeReplica, deployment, snapshot, until


class House:
    """A router and its replicas."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.router = Router(Settings(hold_timeout=0.5, hang_timeout=0.5, stall_timeout=5))
        self.replicas: list[FakeReplica] = []

    def absent(self, name: str, version: int = 1) -> FakeReplica:
        self.replicas.append(FakeReplica(self.folder, name, version))
        return self.replicas[-1]

    async def replica(self, name: str, version: int = 1) -> FakeReplica:
        return await self.absent(name, version).start()

    async def follow(self, *replicas: FakeReplica, **fields: Any) -> None:
        """A snapshot with these replicas; waits until those that run are in the rotation."""
        self.router.update(snapshot(deployment(*replicas, **fields)))
        await until(lambda: self.links() == sum(replica.links is not None for replica in replicas))

    def links(self) -> int:
        return sum(len(target.links(number)) for target in self.router.targets for number in target.endpoints)

    def forward(self, name: str = "m", version: str = "", seconds: float = 5.0, body: bytes = b"") -> Call:
        return Call(self.router, (name, version), seconds, body)

    async def answers(self, count: int, name: str = "m", version: str = "") -> Counter[str]:
        return Counter([await self.forward(name, version).result() for _ in range(count)])


class Call:
    """A forwarded call that counts its ends."""

    def __init__(self, router: Router, asked: tuple[str, str], seconds: float, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.ends: list[Any] = []
        self.ended = asyncio.Event()
        target, version = router.resolve(*asked)
        self.forward = Forward(router, asked, target, version, b"head", body, loop.time() + seconds, self._end)
        self.forward.start()

    def _end(self, header: bytes, payload: bytes, error: OpenMaaSError | None) -> None:
        self.ends.append(error or header.decode())
        self.ended.set()

    async def result(self) -> Any:
        await asyncio.wait_for(self.ended.wait(), 60)
        (end,) = self.ends
        return end


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(endpoint_module, "PING_EVERY", 0.05)
    with tempfile.TemporaryDirectory(prefix="omg-") as folder:
        one = House(folder)
        yield one
        one.router.update(snapshot())
        await one.router.close()
        for replica in one.replicas:
            replica.kill()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("endpoint")])
        await asyncio.sleep(0.02)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_an_alias_and_a_number(house: House) -> None:
    one, two = house.absent("a", 1), house.absent("b", 2)
    await house.follow(one, two, aliases={"champion": 1, "candidate": 2, "old": 7})
    resolve = house.router.resolve
    assert resolve("m")[1] is None
    assert resolve("m", "2")[1] == resolve("m:2")[1] == resolve("m@candidate")[1] == resolve("m", "candidate")[1] == 2
    assert resolve("m@champion")[1] == 1
    assert resolve("m@champion") is resolve("m@champion")  # remembered until the next snapshot


@pytest.mark.parametrize(
    ("name", "version", "code"),
    [
        ("", "", "deployment_not_found"),
        ("x", "", "deployment_not_found"),
        ("M", "", "deployment_not_found"),
        ("m/..", "", "deployment_not_found"),
        ("m\x00", "", "deployment_not_found"),
        ("y" * 60_000, "", "deployment_not_found"),
        ("m", "3", "version_not_served"),
        ("m", "0", "version_not_served"),
        ("m", "-1", "version_not_served"),
        ("m", "²", "version_not_served"),
        ("m", "9" * 5000, "version_not_served"),
        ("m", "nobody", "version_not_served"),
        ("m@nobody", "", "version_not_served"),
        ("m@", "nobody", "version_not_served"),
        ("m@old", "", "version_not_served"),
        ("m:3", "", "version_not_served"),
        ("m", "2", "version_not_served"),
    ],
)
async def test_what_is_not_there(house: House, name: str, version: str, code: str) -> None:
    await house.follow(house.absent("a", 1), house.absent("b", 2), traffic={1: 1.0, 2: 0.0}, aliases={"old": 2})
    with pytest.raises(NotFound) as caught:
        house.router.resolve(name, version)
    assert caught.value.code == code
    assert len(str(caught.value)) < 500


async def test_names_that_are_asked_for_in_vain_are_not_remembered(house: House) -> None:
    await house.follow(house.absent("a"))
    for n in range(100):
        with pytest.raises(NotFound):
            house.router.resolve(f"x{n}")
    assert len(house.router._named) == 0


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_less_loaded_of_two(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.hold = two.hold = True
    calls = [house.forward() for _ in range(40)]
    await until(lambda: len(one.calls) + len(two.calls) == 40)
    assert len(one.calls) == len(two.calls) == 20
    for call in (*one.calls, *two.calls):
        call.answer(b"x")
    for one_call in calls:
        await one_call.result()


async def test_of_many_replicas_none_is_forgotten(house: House) -> None:
    replicas = [await house.replica(name) for name in "abcde"]
    await house.follow(*replicas)
    for replica in replicas:
        replica.hold = True
    calls = [house.forward() for _ in range(200)]
    await until(lambda: sum(len(replica.calls) for replica in replicas) == 200)
    assert min(len(replica.calls) for replica in replicas) >= 25
    for replica in replicas:
        for call in replica.calls:
            call.answer(b"x")
    for one in calls:
        await one.result()


async def test_traffic_is_split_by_weight(house: House) -> None:
    await house.follow(await house.replica("a", 1), await house.replica("b", 2), traffic={1: 90, 2: 10})
    seen = await house.answers(400)
    assert 10 <= seen["b"] <= 80
    assert (await house.answers(20, version="2"))["b"] == 20


async def test_a_version_whose_replicas_are_away_leaves_its_share_to_the_others(house: House) -> None:
    await house.follow(await house.replica("a", 1), house.absent("b", 2), traffic={1: 1, 2: 1})
    assert (await house.answers(20))["a"] == 20


# ── retry and hold ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_that_is_lost_with_its_replica_is_answered_by_another(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.hold = two.hold = True
    calls = [house.forward() for _ in range(30)]
    await until(lambda: len(one.calls) + len(two.calls) == 30)
    two.hold = False
    for call in two.calls:
        call.answer(b"b")
    one.kill()
    assert Counter([await call.result() for call in calls]) == {"b": 30}


async def test_a_full_replica_s_refusal_is_tried_once_elsewhere(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.error = Unavailable("full", code="queue_full")
    assert await house.answers(20) == {"b": 20}
    two.error = Unavailable("full too", code="queue_full")
    result = await house.forward().result()
    assert isinstance(result, Unavailable)
    assert result.code == "queue_full"
    assert len(one.calls) + len(two.calls) <= 42


async def test_an_error_of_the_request_s_own_is_not_retried(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.error = two.error = InvalidInput("bad")
    assert isinstance(await house.forward().result(), InvalidInput)
    assert len(one.calls) + len(two.calls) == 1


async def test_a_request_that_kills_replicas_kills_two_at_most(house: House) -> None:
    replicas = [await house.replica(name) for name in "abcd"]
    await house.follow(*replicas)
    for replica in replicas:
        replica.hold = True
    call = house.forward()
    for _ in range(2):
        await until(lambda: any(replica.calls and replica.links for replica in replicas))
        next(replica for replica in replicas if replica.calls and replica.links).kill()
    assert isinstance(await call.result(), LinkLost)
    assert sum(len(replica.calls) for replica in replicas) == 2


class Fragile(FakeReplica):
    """Answers a moment later; `poison` kills it before that."""

    def _handle(self, call: IncomingCall) -> None:
        self.calls.append(call)
        loop = asyncio.get_running_loop()
        if call.payload == b"poison":
            loop.call_later(0.002, self.kill)
        else:
            loop.call_later(0.01, call.answer, b"answered")


async def test_who_was_beside_a_request_that_kills_replicas_is_not_beside_it_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_module, "_PATIENCE", 60.0)
    replicas = [await Fragile(house.folder, name).start() for name in "abc"]
    house.replicas += replicas
    await house.follow(*replicas)
    calls = [house.forward() for _ in range(15)]
    poison = house.forward(body=b"poison")
    calls += [house.forward() for _ in range(15)]
    assert isinstance(await poison.result(), LinkLost)
    assert Counter([await call.result() for call in calls]) == {"answered": 30}
    assert sum(replica.links is None for replica in replicas) == 2


async def test_lost_calls_wait_for_one_another_for_a_while_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_module, "_PATIENCE", 0.05)
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.hold = two.hold = True
    calls = [house.forward() for _ in range(6)]
    await until(lambda: len(one.calls) + len(two.calls) == 6)
    lost = len(one.calls)
    one.kill()
    await until(lambda: len(two.calls) == 6)
    calls[0].forward.cancel()  # of those that hold the turn, or wait: nobody stays behind
    for call in two.calls:
        call.answer(b"b")
    assert lost
    assert Counter([await call.result() for call in calls[1:]]) == {"b": 5}
    await until(lambda: not len(house.router._turns))


async def test_a_request_waits_for_a_replica_that_is_starting(house: House) -> None:
    one = house.absent("a")
    await house.follow(one)
    call = house.forward()
    await asyncio.sleep(0.1)
    assert not call.ends
    await one.start()
    assert await call.result() == "a"


async def test_a_request_waits_no_longer_than_the_hold_time_or_its_own(house: House) -> None:
    await house.follow(house.absent("a"))
    loop = asyncio.get_running_loop()
    for hold, seconds, least in ((0.5, 30.0, 0.45), (30.0, 0.1, 0.08)):
        house.router._settings = Settings(hold_timeout=hold)
        begun = loop.time()
        result = await house.forward(seconds=seconds).result()
        assert isinstance(result, Unavailable)
        assert result.code == "no_replica"
        assert result.retry_after == 1.0
        assert least < loop.time() - begun < 25


async def test_who_waits_for_a_deployment_that_goes_away_is_told(house: House) -> None:
    await house.follow(house.absent("a"))
    call = house.forward()
    house.router.update(snapshot())
    result = await call.result()
    assert isinstance(result, NotFound)


async def test_who_waits_goes_on_with_the_version_that_came_instead(house: House) -> None:
    await house.follow(house.absent("a", 1), aliases={"champion": 1})
    plain, by_alias, by_number = house.forward(), house.forward("m@champion"), house.forward(version="1")
    await house.follow(await house.replica("b", 2), aliases={"champion": 2})
    assert await plain.result() == "b"
    assert await by_alias.result() == "b"
    assert isinstance(await by_number.result(), NotFound)


async def test_a_cancelled_call_never_ends_and_its_replica_is_told(house: House) -> None:
    one = await house.replica("a")
    await house.follow(one)
    one.hold = True
    call = house.forward()
    await until(lambda: one.calls)
    call.forward.cancel()
    await until(lambda: one.calls[0].cancelled)
    one.kill()
    held = house.forward()
    await asyncio.sleep(0.05)
    held.forward.cancel()
    await asyncio.sleep(0.6)
    assert call.ends == held.ends == []


async def test_a_question_that_is_left_in_the_turn_of_its_answer_harms_nothing(house: House) -> None:
    one = await house.replica("a")
    await house.follow(one)
    one.hold = True
    neighbour = house.forward()
    asking = asyncio.create_task(ask(house.router, ("m", ""), b"q", asyncio.get_running_loop().time() + 5))
    await until(lambda: len(one.calls) == 2)
    (target,) = house.router.targets
    (link,) = target.links(1)
    asking.cancel()
    link._frame(2, one.calls[1].id, b"h", b"p")  # the answer, in the very turn in which the caller left
    with pytest.raises(asyncio.CancelledError):
        await asking
    one.calls[0].answer(b"mine")
    assert await neighbour.result() == "mine"
    assert not link.closed


# ── health ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("health", [Health(False), Health(True, stalled=99.0)])
async def test_an_unfit_replica_leaves_the_rotation_and_comes_back(house: House, health: Health) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    two.hold = True
    busy = house.forward()
    while not two.calls:
        busy = house.forward()
        await asyncio.sleep(0.01)
    two.health = health
    await until(lambda: house.links() == 1)
    assert await house.answers(10) == {"a": 10}
    assert two.calls[0].done is False  # what it works on is not taken from it
    two.calls[0].answer(b"b")
    assert await busy.result() == "b"
    two.hold, two.health = False, Health(True)
    await until(lambda: house.links() == 2)


async def test_a_silent_replica_is_given_up_and_its_calls_go_elsewhere(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(one, two)
    one.hold = two.hold = True
    calls = [house.forward() for _ in range(10)]
    await until(lambda: len(one.calls) + len(two.calls) == 10)
    assert two.links is not None
    two.links.health = lambda: (_ for _ in ()).throw(RuntimeError)  # type: ignore[assignment]  # pings break its connection
    one.hold = False
    for call in one.calls:
        call.answer(b"a")
    assert Counter([await call.result() for call in calls]) == {"a": 10}


async def test_a_health_that_cannot_be_read_keeps_a_replica_out(house: House) -> None:
    one, odd = await house.replica("a"), house.absent("b")
    await odd.start()
    assert odd.links is not None
    odd.links.health = lambda: b"\xc1"
    house.router.update(snapshot(deployment(one, odd)))
    await until(lambda: house.links() == 1)
    assert await house.answers(5) == {"a": 5}
    odd.links.health = lambda: b"\xc3"
    await asyncio.sleep(0.2)
    assert house.links() == 1


@pytest.mark.parametrize("address", ["", "nonsense", "tcp:nowhere", "unix:", "unix:/nonexistent/a.sock"])
async def test_an_address_that_is_none_harms_no_other_replica(house: House, address: str) -> None:
    one, odd = await house.replica("a"), house.absent("b")
    odd.place = type(odd.place)(id="b", version=1, address=address)
    house.router.update(snapshot(deployment(one, odd)))
    await until(lambda: house.links() == 1)
    assert await house.answers(5) == {"a": 5}


async def test_a_replica_that_comes_back_is_found_again(house: House) -> None:
    one = await house.replica("a")
    await house.follow(one)
    for _ in range(3):
        one.kill()
        await until(lambda: house.links() == 0)
        await one.start()
        assert await house.forward().result() == "a"


# ── swaps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_swap_moves_new_calls_and_lets_old_ones_end_where_they_are(house: House) -> None:
    old, new = await house.replica("a", 1), await house.replica("b", 2)
    await house.follow(old)
    old.hold = True
    call = house.forward(version="1")
    await until(lambda: old.calls)
    await house.follow(new)
    assert await house.answers(5) == {"b": 5}
    old.calls[0].answer(b"a")
    assert await call.result() == "a"
    await until(lambda: old.connections == 0)


async def test_a_replica_that_drains_before_the_snapshot_leaves_it_still_answers_what_it_has(house: House) -> None:
    """The replica's own farewell may come before control's word: its calls must not be broken off by either."""
    old, new = await house.replica("a", 1), await house.replica("b", 2)
    await house.follow(old)
    old.hold = True
    call = house.forward(version="1")
    await until(lambda: old.calls)
    assert old.links is not None
    drained = asyncio.create_task(old.links.drain(5))
    await until(lambda: house.links() == 0)
    await house.follow(new)
    await asyncio.sleep(0.1)
    assert not old.calls[0].cancelled
    assert not call.ends
    old.calls[0].answer(b"a")
    assert await call.result() == "a"
    assert await drained is True
    assert await house.forward().result() == "b"


async def test_swaps_under_load_lose_nothing(house: House) -> None:
    results: list[Any] = []
    stop = False

    async def load() -> None:
        while not stop:
            results.append(await house.forward(body=b"x").result())
            await asyncio.sleep(0)

    current = await house.replica("r0", 1)
    await house.follow(current)
    clients = [asyncio.create_task(load()) for _ in range(8)]
    for n in range(1, 11):
        following = await house.replica(f"r{n}", n + 1)
        house.router.update(snapshot(deployment(following), version=n))
        assert current.links is not None
        assert await current.links.drain(5)
        current.kill()
        current = following
        await asyncio.sleep(0.02)
    stop = True
    await asyncio.gather(*clients)
    assert all(isinstance(result, str) for result in results), [result for result in results if not isinstance(result, str)][:3]
    assert len(set(results)) > 5


async def test_replicas_that_stay_keep_their_connection_over_snapshots(house: House) -> None:
    one = await house.replica("a")
    await house.follow(one)
    (link,) = next(iter(house.router.targets)).links(1)
    for version in range(5):
        house.router.update(snapshot(deployment(one), version=version))
    assert next(iter(house.router.targets)).links(1) == [link]
    assert one.connections == 1
