"""Counters over the API: all gateways of a pool are asked at once, summed up, and named if they do not answer."""

from collections.abc import Callable
from typing import Any

import pytest

from kakuremichi.bus.memory import MemoryBus
from kakuremichi.bus.port import Message
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.counters import MOST_SERVICES, AskCounters, Counted, CountersTold
from kakuremichi_portal.counters import Counters
from unit.portal.fake_registry import GATEWAYS, node_view
from unit.portal.world import WIKI, World

pytestmark = pytest.mark.usefixtures("listening")
SSH = {"name": "ssh", "kind": "tcp", "port": 10022, "targets": [{"agent": "site-a", "port": 22}]}

Count = Callable[[ServiceId], Counted | None]


@pytest.fixture
async def listening(world: World) -> None:
    await world.portal.counters.listen()


async def gateway(world: World, name: str, count: Count, *errors: str, pool: str = "default") -> MemoryBus:
    """One that answers with what `count` makes of each service that it is asked for."""
    bus = world.nats.connect(f"reply.{name}")

    async def answer(message: Message) -> None:
        ask = decode(message.data, AskCounters)
        found = tuple(counted for service in ask.services if (counted := count(service)) is not None)
        told = CountersTold(ask_id=ask.ask_id, counting_s=60.0, services=found, errors=errors)
        await bus.publish(subjects.counters(NodeId(name)), encode(told))

    await bus.subscribe(subjects.ask_counters(PoolName(pool)), answer)
    return bus


def web(requests: int) -> Count:
    """Of `wiki` so many requests, of other services what a tcp service has."""

    def count(service: ServiceId) -> Counted:
        if service != "wiki":
            return Counted(service_id=service, connections=3, open=1, bytes_in=10, bytes_out=20, rate=0.5)
        statuses = (0, requests - 1, 0, 1, 0)
        return Counted(
            service_id=service, open=1, requests=requests, statuses=statuses, bytes_in=100, bytes_out=200, denied=1,
            rate=2.0,
        )  # fmt: skip

    return count


async def get(world: World, path: str, status: int = 200) -> Any:
    async with world.client.get(f"/api/v1{path}", headers=world.auth) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def publish(world: World, *bodies: dict[str, Any]) -> None:
    for body in bodies:
        async with world.client.post("/api/v1/services", json=body, headers=world.auth) as response:
            assert response.status == 201, await response.json()


async def test_each_gateways_counters_are_shown_and_summed_up(world: World) -> None:
    await publish(world, WIKI)
    for number, name in enumerate(GATEWAYS):
        await gateway(world, name, web(10 * (number + 1)))

    answer = await get(world, "/services/wiki/counters")

    assert (answer["name"], answer["kind"], answer["silent"], answer["errors"]) == ("wiki", "http", [], [])
    assert [(row["node"], row["requests"]) for row in answer["gateways"]] == [("gw1", 10), ("gw2", 20), ("gw3", 30)]
    assert answer["gateways"][0]["counting_s"] == 60
    assert answer["total"] == {
        "connections": None, "open": 3, "requests": 60, "bytes_in": 300, "bytes_out": 600, "packets_in": None,
        "statuses": {"1xx": 0, "2xx": 57, "3xx": 0, "4xx": 3, "5xx": 0},
        "packets_out": None, "denied": 3, "limited": None, "connect_errors": None, "response_errors": None, "rate": 6.0,
    }  # fmt: skip


async def test_who_does_not_answer_is_named_and_the_others_are_told(world: World) -> None:
    await publish(world, SSH)
    world.registry.nodes[1] = node_view("gw2", state="offline")
    await gateway(world, "gw1", web(1))

    answer = await get(world, "/services/ssh/counters?timeout=0.2")

    assert answer["silent"] == ["gw2", "gw3"]
    assert answer["total"]["connections"] == 3


async def test_nobody_is_waited_for_who_does_not_report(world: World) -> None:
    await publish(world, SSH)
    world.registry.nodes = [node_view(name, state="offline") for name in GATEWAYS]

    answer = await get(world, "/services/ssh/counters?timeout=10")  # the test's own limit is shorter for all of them

    assert answer["silent"] == list(GATEWAYS)
    assert set(answer["total"].values()) == {None}


async def test_what_one_gateway_could_not_count_makes_no_wrong_sum(world: World) -> None:
    await publish(world, SSH)
    await gateway(world, "gw1", web(1))
    await gateway(world, "gw2", lambda service: Counted(service_id=service, connections=4, bytes_in=1, bytes_out=1))
    await gateway(world, "gw3", lambda _service: None, "nft: killed")

    answer = await get(world, "/services/ssh/counters")

    assert (answer["total"]["connections"], answer["total"]["open"]) == (7, None)
    assert answer["errors"] == [{"node": "gw3", "message": "nft: killed"}]


async def test_a_gateway_that_does_not_serve_it_says_so(world: World) -> None:
    await publish(world, SSH)
    for name in GATEWAYS:
        await gateway(world, name, lambda _service: None)

    answer = await get(world, "/services/ssh/counters")

    assert [error["node"] for error in answer["errors"]] == list(GATEWAYS)
    assert "does not serve it" in answer["errors"][0]["message"]


async def test_answers_of_strangers_and_of_other_asks_count_for_nothing(world: World) -> None:
    await publish(world, SSH)
    world.registry.nodes = [node_view("gw1")]
    for stranger in ("gw9", "site-a"):
        await gateway(world, stranger, web(1))
    bus = world.nats.connect("reply.gw1")
    late = CountersTold(ask_id=b"x" * 16, counting_s=1.0, services=())
    for answer in (encode(late), b"junk"):
        await bus.publish(subjects.counters(NodeId("gw1")), answer)

    answer = await get(world, "/services/ssh/counters?timeout=0.2")

    assert (answer["gateways"], answer["silent"]) == ([], ["gw1"])


async def test_a_gateway_can_say_nothing_of_services_that_it_was_not_asked_for_and_one_thing_of_each(
    world: World,
) -> None:
    await publish(world, SSH, WIKI | {"pool": "other"})
    world.registry.nodes = [node_view("gw1")]
    bus = world.nats.connect("reply.gw1")

    async def answer(message: Message) -> None:
        ask = decode(message.data, AskCounters)
        found = tuple(counted for name in ("ssh", "ssh", "wiki") if (counted := web(1)(ServiceId(name))))
        told = CountersTold(ask_id=ask.ask_id, counting_s=1.0, services=found)
        await bus.publish(subjects.counters(NodeId("gw1")), encode(told))

    await bus.subscribe(subjects.ask_counters(PoolName("default")), answer)

    totals = {item["name"]: item["total"] for item in (await get(world, "/counters"))["items"]}

    assert totals["ssh"]["connections"] == 3
    assert totals["wiki"]["requests"] is None


async def test_all_services_are_listed_with_their_sums_page_by_page(world: World) -> None:
    await publish(world, SSH, WIKI)
    for name in GATEWAYS:
        await gateway(world, name, web(5))

    whole = await get(world, "/counters")
    first = await get(world, "/counters?limit=1")
    second = await get(world, f"/counters?limit=1&after={first['next_after']}")

    assert {item["name"]: item["total"]["requests"] for item in whole["items"]} == {"ssh": None, "wiki": 15}
    assert whole["silent"] == whole["errors"] == []
    assert [item["name"] for page in (first, second) for item in page["items"]] == ["ssh", "wiki"]


async def test_more_services_than_one_message_holds_are_asked_in_several(world: World) -> None:
    counters, names = Counters(world.bus), [ServiceId(f"s{number}") for number in range(MOST_SERVICES + 1)]
    await counters.listen()
    await gateway(world, "gw1", web(1))

    parts = await counters.ask(PoolName("default"), names, known=[NodeId("gw1")], awaited=[NodeId("gw1")])

    assert [len(answers[NodeId("gw1")].services) for answers in parts] == [MOST_SERVICES, 1]


async def test_without_a_bus_nothing_is_asked_and_what_is_not_there_is_a_404(world: World) -> None:
    await get(world, "/services/none/counters", 404)
    assert world.nats.sent_to("ask.>") == []
    await get(world, "/services/none/counters?timeout=11", 400)
    assert (await get(world, "/counters"))["items"] == []
