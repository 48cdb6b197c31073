"""The live view: everybody gets the same bytes, who is slow is cut off, and floods of streams are refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from kakuremichi.bus.port import Message
from kakuremichi.model.ids import LogId, NodeId, PoolName, ServiceId
from kakuremichi.wire import commands, facts, people, subjects
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.requests import Cursor, ItemError, Report
from kakuremichi_portal.access import add_token
from kakuremichi_portal.live import END, QUEUE, Live, View
from kakuremichi_portal.places import Place
from kakuremichi_portal.principal import Principal, Scope, SignedIn
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.standing import standing_of
from kakuremichi_registry.store.entries import topic_of
from unit.portal.world import World

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def places() -> dict[str, Place]:
    return {
        "gw1": Place("gateway", "main"), "site-a": Place("agent", "main"), "site-b": Place("agent", "main"),
        "site-z": Place("agent", "zoo"),
    }  # fmt: skip


def logged(seq: int, fact: facts.AnyFact) -> Message:
    row = LoggedFact(
        log_id="log-1", seq=seq, prev="00" * 32, hash="ab" * 32, topic=topic_of(fact), actor="ann",
        at="2026-01-02T03:04:05.000000Z", fact=msgspec.json.encode(fact).decode(),
    )  # fmt: skip
    return Message(subjects.audit(row.topic), msgspec.json.encode(row))


def fact(seq: int) -> Message:
    logged = LoggedFact(
        log_id="log-1", seq=seq, prev="00" * 32, hash="ab" * 32, topic="service.published", actor="ann",
        at="2026-01-02T03:04:05.000000Z", fact='{"type":"service.published.v1","service_id":"wi\\nki"}',
    )  # fmt: skip
    return Message("audit.service", msgspec.json.encode(logged), headers={"traceparent": TRACEPARENT})


def report(node: str, seq: int, error: str = "") -> Report:
    errors = (ItemError("feed.pool.main", "route/wiki", error),) if error else ()
    return Report(
        node_id=NodeId(node), boot_id=bytes(16), version="1", tags=(),
        cursors=(Cursor("feed.pool.main", LogId("log-1"), seq),), errors=errors,
    )  # fmt: skip


def parsed(piece: bytes) -> list[dict[str, str]]:
    return [dict(line.split(": ", 1) for line in each.splitlines()) for each in piece.decode().strip().split("\n\n")]


async def test_events_and_changes_of_reports_share_one_piece() -> None:
    live = Live(places)
    one, two = live.open("ann", lambda: None), live.open("ann", lambda: None)
    await live.hear_fact(fact(7))
    for seq in (3, 4):
        live.hear_report(report("gw1", seq))
    live.flush()
    piece = one.pieces.get_nowait()
    assert two.pieces.get_nowait() is piece
    event, node = parsed(piece)
    assert (event["id"], event["event"]) == ("7", "event")
    said = json.loads(event["data"])
    assert (said["seq"], said["trace_id"]) == (7, "0af7651916cd43dd8448eb211c80319c")
    assert said["fact"]["service_id"] == "wi\nki"
    assert node["event"] == "node"
    assert json.loads(node["data"]) == {"node": "gw1", "cursors": {"feed.pool.main": 4}, "errors": []}


async def test_a_report_that_says_nothing_new_is_no_news() -> None:
    live = Live(places)
    view = live.open("ann", lambda: None)
    for error in ("", "", "address in use"):
        live.hear_report(report("gw1", 3, error))
        live.flush()
    pieces = [view.pieces.get_nowait() for _ in range(3)]
    assert [b"event: node" in piece for piece in pieces] == [True, False, True]
    assert pieces[1].startswith(b":")


async def test_who_does_not_keep_up_is_cut_off_and_the_others_go_on() -> None:
    live, cut = Live(places), asyncio.Event()
    slow, quick = live.open("slow", cut.set), live.open("quick", lambda: None)
    for _ in range(QUEUE + 1):
        live.flush()
        quick.pieces.get_nowait()
    assert cut.is_set()
    assert (len(live), live.slow) == (1, 1)
    live.close(slow)
    assert len(live) == 1


async def test_streams_of_one_caller_and_of_all_are_limited() -> None:
    live = Live(places, most=3, most_per_caller=2)
    views = [live.open("ann", lambda: None), live.open("ann", lambda: None)]
    with pytest.raises(ProblemError, match="ann has as many live views"):
        live.open("ann", lambda: None)
    live.open("bob", lambda: None)
    with pytest.raises(ProblemError, match="as many live views open as are allowed"):
        live.open("eve", lambda: None)
    live.close(views[0])
    live.open("ann", lambda: None)


async def test_at_the_end_every_stream_ends() -> None:
    live, stop = Live(places), asyncio.Event()
    view = live.open("ann", lambda: None)
    stop.set()
    await live.run(stop)
    assert view.pieces.get_nowait() == END


@asynccontextmanager
async def watching(world: World, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    stop = asyncio.Event()
    running = asyncio.create_task(world.portal.live.run(stop))
    listening = await world.portal.live.listen(world.bus)
    async with world.client.get("/api/v1/live", headers=world.auth | headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response
    stop.set()
    await running
    await listening.unsubscribe()


async def next_of(response: aiohttp.ClientResponse, name: str) -> Any:
    async with asyncio.timeout(20):
        while (line := await response.content.readline()) != f"event: {name}\n".encode():
            assert line, "the stream ended"
        return json.loads((await response.content.readline()).removeprefix(b"data: "))


async def test_a_stream_tells_what_comes_over_the_bus(world: World) -> None:
    async with watching(world) as response:
        message = fact(9)
        await world.registry_bus.publish(message.subject, message.data, headers=message.headers)
        assert (await next_of(response, "event"))["seq"] == 9
        await world.hear("gw1", 5)
        assert (await next_of(response, "node"))["cursors"] == {"feed.pool.default": 5}


async def test_who_comes_back_is_told_what_it_missed(world: World) -> None:
    for _ in range(3):
        world.registry.written()
    async with watching(world, **{"Last-Event-ID": "1"}) as response:
        assert [(await next_of(response, "event"))["seq"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 20])
async def test_a_last_event_that_is_no_number_is_refused(world: World, last: str) -> None:
    async with world.client.get("/api/v1/live", headers=world.auth | {"Last-Event-ID": last}) as response:
        assert response.status == 400
    assert len(world.portal.live) == 0


async def test_without_a_token_nothing_is_shown(world: World) -> None:
    async with world.client.get("/api/v1/live") as response:
        assert response.status == 401


def drained(view: View) -> list[dict[str, str]]:
    pieces = b""
    while not view.pieces.empty():
        pieces += view.pieces.get_nowait()
    return parsed(pieces.replace(b": still here\n\n", b"")) if pieces.strip(b": stilhere\n") else []


def published(name: str, pool: str, *agents: str) -> facts.ServicePublished:
    return facts.ServicePublished(
        service_id=ServiceId(name), pool=PoolName(pool), kind="http", host="", path="", first_port=0, last_port=0,
        sources=(),
        targets=tuple(
            facts.TargetSpec(target_id="t", agent=NodeId(agent), agent_port=1, address="", port=1) for agent in agents
        ),
    )  # fmt: skip


class TestLimits:
    async def test_who_has_limits_is_sent_what_lies_within(self) -> None:
        live = Live(places)
        everything = live.open("ann", lambda: None)
        views = {
            "pool": live.open("pia", lambda: None, Scope(pools=("main",))),
            "site": live.open("bob", lambda: None, Scope(pools=("main",), agents=("site-a",))),
        }
        for view in views.values():
            await live.learn(view)
        announced = facts.KeyAnnounced(node_id=NodeId("site-b"), public_key="", epoch=1, endpoints=())
        happened: tuple[facts.AnyFact, ...] = (
            published("alpha", "main", "site-a"), published("beta", "main", "site-b"),
            published("zeta", "zoo", "site-z"), announced, facts.AccountRemoved(account="eve"),
        )  # fmt: skip
        for seq, each in enumerate(happened):
            await live.hear_fact(logged(seq + 1, each))
        for node in ("gw1", "site-a", "site-b", "site-z"):
            live.hear_report(report(node, 4, "address in use"))
        live.flush()
        seen = {name: drained(view) for name, view in views.items()}
        ids = {name: [event["id"] for event in events if "id" in event] for name, events in seen.items()}
        assert ids == {"pool": ["1", "2", "4"], "site": ["1"]}
        nodes = {
            name: {said["node"]: bool(said["errors"]) for event in events
                   if event["event"] == "node" and (said := json.loads(event["data"]))}
            for name, events in seen.items()
        }  # fmt: skip
        assert nodes["pool"] == {"gw1": True, "site-a": True, "site-b": True}
        assert nodes["site"] == {"gw1": False, "site-a": True}, "a gateway's errors may be about others"
        assert len(drained(everything)) == 9

    async def test_callers_with_the_same_limits_share_one_piece(self) -> None:
        live = Live(places)
        one, two = (live.open(name, lambda: None, Scope(pools=("main",))) for name in ("ann", "bob"))
        for view in (one, two):
            await live.learn(view)
        await live.hear_fact(logged(1, published("alpha", "main", "site-a")))
        live.flush()
        assert one.pieces.get_nowait() is two.pieces.get_nowait()

    async def test_a_node_that_enrols_meanwhile_is_known(self) -> None:
        live = Live(places)
        view = live.open("pia", lambda: None, Scope(pools=("main",)))
        enrolled = facts.NodeEnrolled(
            node_id=NodeId("new"), role="agent", pool=PoolName("main"), slot=0, subnet="", identity_key="", serial=1,
            token_id="", networks=(),
        )  # fmt: skip
        await live.learn(view)
        await live.hear_fact(logged(1, enrolled))
        live.hear_report(report("new", 1))
        live.flush()
        assert [each["event"] for each in drained(view)] == ["event", "node"]

    async def test_nothing_is_sent_before_it_is_known_what_may_be(self) -> None:
        asked, answer = 0, asyncio.Event()

        async def slow() -> dict[str, Place]:
            nonlocal asked
            asked += 1
            await answer.wait()
            return await places()

        live = Live(slow)
        limited, free = live.open("pia", lambda: None, Scope(pools=("main",))), live.open("ann", lambda: None)
        other = live.open("bob", lambda: None, Scope(agents=("site-a",)))
        learning = [asyncio.create_task(live.learn(view)) for view in (limited, other)]
        await live.hear_fact(fact(1))
        live.flush()
        assert (limited.pieces.qsize(), free.pieces.qsize()) == (0, 1), "who may see everything waits for nobody"
        answer.set()
        await asyncio.gather(*learning)
        live.flush()
        assert (limited.pieces.qsize(), asked) == (1, 1)

    async def test_what_was_looked_up_before_a_lost_connection_is_looked_up_again(self, world: World) -> None:
        asked = 0

        async def across_a_loss() -> dict[str, Place]:
            nonlocal asked
            asked += 1
            if asked == 1:
                world.bus.disconnect()
                world.bus.reconnect()
            return await places()

        live = Live(across_a_loss)
        listening = await live.listen(world.bus)
        await live.learn(live.open("pia", lambda: None, Scope(pools=("main",))))
        assert asked == 2
        await listening.unsubscribe()

    async def test_a_caller_whose_limits_cannot_be_judged_is_told_so(self, world: World) -> None:
        token = add_token(world.token_file, "pia", "read", scope=Scope(pools=("main",)))

        async def away(command: object) -> commands.Result:
            return commands.Problem(status=503, code="unavailable", detail="database: is away")

        world.registry.decide = away
        async with world.client.get("/api/v1/live", headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == 503
        assert len(world.portal.live) == 0


VIC = Principal("vic", "read", account="vic")
DEPLOY = Principal("deploy", "publish")


def session(number: int, principal: Principal) -> SignedIn:
    view = people.SessionView(
        session_id=f"{number:016x}", who=principal.actor, account=principal.account, token_sha256="",
        method="password", source="", client="", opened_at="", seen_at="", ends_at="",
    )  # fmt: skip
    return SignedIn(view, principal, "")


class TestStanding:
    @pytest.mark.parametrize(
        ("taken", "ended"),
        [
            (facts.AccountRemoved(account="vic"), {"vic in a browser", "vic in another"}),
            (
                facts.AccountChanged(
                    account="vic", label="", role="viewer", pools=("main",), agents=(), subject="", disabled=False,
                    password_changed=False,
                ),
                {"vic in a browser", "vic in another"},
            ),
            (facts.ApiTokenRemoved(name="deploy"), {"the token", "a browser with the token"}),
            (facts.ApiTokenRemoved(name="vic"), set()),
            (facts.AccountRemoved(account="deploy"), set()),
            (facts.PersonSignedOut(who="person/vic", session_id=f"{1:016x}"), {"vic in a browser"}),
            (
                facts.SessionsEnded(sessions=(("person/vic", f"{2:016x}"), ("deploy", f"{3:016x}"))),
                {"vic in another", "a browser with the token"},
            ),
            (published("alpha", "main", "site-a"), set()),
        ],
    )  # fmt: skip
    async def test_a_view_ends_with_what_it_stands_on(self, taken: facts.AnyFact, ended: set[str]) -> None:
        live = Live(places)
        views = {
            name: live.open(name, lambda: None, standing=standing_of(principal, signed_in))
            for name, principal, signed_in in (
                ("vic in a browser", VIC, session(1, VIC)), ("vic in another", VIC, session(2, VIC)),
                ("the token", DEPLOY, None), ("a browser with the token", DEPLOY, session(3, DEPLOY)),
            )
        }  # fmt: skip
        await live.hear_fact(logged(1, taken))
        assert {name for name, view in views.items() if not view.pieces.empty()} == ended
        live.flush()
        for name in ended:
            assert views[name].pieces.get_nowait() == END
            assert views[name].pieces.empty(), "nothing comes after the end"

    async def test_what_waits_for_somebody_who_may_not_see_it_any_more_is_not_sent(self) -> None:
        live = Live(places)
        view = live.open("vic", lambda: None, standing=standing_of(VIC, None))
        await live.hear_fact(fact(1))
        live.flush()
        await live.hear_fact(logged(2, facts.AccountRemoved(account="vic")))
        assert view.pieces.get_nowait() == END

    async def test_a_connection_that_takes_nothing_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kakuremichi_portal.live.GRACE_S", 0.01)
        live, cut = Live(places), asyncio.Event()
        live.open("vic", cut.set, standing=standing_of(VIC, None))
        await live.hear_fact(logged(1, facts.AccountRemoved(account="vic")))
        async with asyncio.timeout(20):
            await cut.wait()
        assert len(live) == 0

    async def test_after_a_lost_connection_all_come_back(self, world: World) -> None:
        async with watching(world) as response:
            world.bus.disconnect()
            world.bus.reconnect()
            async with asyncio.timeout(20):
                while await response.content.readline():
                    pass
        assert len(world.portal.live) == 0

    async def test_a_stream_of_a_token_ends_when_the_token_is_removed(self, world: World) -> None:
        async with watching(world) as response:
            message = logged(9, facts.ApiTokenRemoved(name="ann"))
            await world.registry_bus.publish(message.subject, message.data)
            async with asyncio.timeout(20):
                while await response.content.readline():
                    pass

    async def test_it_ends_also_when_nobody_could_log_that(self, world: World) -> None:
        spare = add_token(world.token_file, "spare", "read")
        async with watching(world, Authorization=f"Bearer {spare}") as response:
            await world.registry_bus.close()
            async with world.client.delete("/api/v1/api-tokens/spare", headers=world.auth) as removed:
                assert removed.status == 503
            async with asyncio.timeout(20):
                while await response.content.readline():
                    pass
