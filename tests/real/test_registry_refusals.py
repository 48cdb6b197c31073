"""What the registry refuses, with the status, the field and the holders that a person needs to mend it."""

import asyncio
import hashlib
import secrets

import msgspec
import pytest
from nacl.signing import SigningKey

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.model.keys import PublicKey
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.commands import (
    AnyResult,
    CreateToken,
    Enrolled,
    ListServices,
    ListTokens,
    Problem,
    PublishService,
    RemoveNode,
    Services,
    TargetInput,
    Tokens,
    UnpublishService,
    Written,
)
from kakuremichi.wire.signing import verify_key
from support.real_registry import GATEWAY_ENDPOINT, POOL, World, http, redeem, tcp


async def refused(world: World, command: PublishService) -> Problem:
    answer = await world.ask(command)
    assert isinstance(answer, Problem), answer
    return answer


async def test_the_same_host_twice_names_the_holder(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    await registry_world.ask(http("wiki", "app.example.com"))
    problem = await refused(registry_world, http("other", "app.example.com"))
    assert (problem.status, problem.field, problem.holders) == (409, "host", ("wiki",))
    assert "app.example.com" in problem.detail
    assert "wiki" in problem.detail


async def test_a_host_that_only_contains_anothers_name_is_another_host(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    for name, host in (("one", "app.example.com"), ("two", "app.example.com.evil.com"), ("three", "xapp.example.com")):
        assert isinstance(await registry_world.ask(http(name, host)), Written)


async def test_the_same_port_twice_names_the_holder_also_inside_a_range(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    assert isinstance(await registry_world.ask(tcp("range", 6000, 6100)), Written)
    for command in (tcp("one", 6000), tcp("one", 6100), tcp("one", 5990, 6000), tcp("one", 6010, 6020)):
        problem = await refused(registry_world, command)
        assert (problem.status, problem.code, problem.holders) == (409, "port-taken", ("range",))
    assert isinstance(await registry_world.ask(tcp("udp", 6000, udp=True)), Written), "another protocol"
    assert isinstance(await registry_world.ask(tcp("next", 6101)), Written)


async def test_a_range_keeps_its_numbers_so_it_needs_them_on_the_agent_too(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    await registry_world.enrol("site-x", pool="other")
    first = await registry_world.ask(tcp("ssh", 10022))
    assert isinstance(first, Written)
    listed = await registry_world.ask(ListServices(actor="admin"))
    assert isinstance(listed, Services)
    port = listed.items[0].targets[0].agent_port
    problem = await refused(registry_world, tcp("range", port, port + 5))
    assert (problem.status, problem.code, problem.holders) == (409, "agent-port-taken", ("ssh",))


async def test_unknown_agents_pools_and_agents_of_another_pool(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    await registry_world.enrol("site-x", pool="other")
    await registry_world.enrol("gw1", "gateway")
    unknown = await refused(registry_world, http("wiki", agent="nobody"))
    assert (unknown.status, unknown.field) == (404, "targets.agent")
    gateway = await refused(registry_world, http("wiki", agent="gw1"))
    assert (gateway.status, gateway.field) == (404, "targets.agent")
    pool = await refused(registry_world, http("wiki", pool="nowhere"))
    assert (pool.status, pool.field) == (404, "pool")
    foreign = await refused(registry_world, http("wiki", agent="site-x"))
    assert (foreign.status, foreign.field) == (422, "targets.agent")
    assert "other" in foreign.detail


async def test_targets_that_are_a_gateway_or_lie_in_a_tunnel(registry_world: World) -> None:
    agent = await registry_world.enrol("site-a")
    await registry_world.enrol("gw1", "gateway")
    for address, word in ((GATEWAY_ENDPOINT.split(":")[0], "gw1"), (agent.certificate.subnet[:-4] + "100", "site-a")):
        target = TargetInput(agent=NodeId("site-a"), address=address, port=80)
        problem = await refused(registry_world, msgspec.structs.replace(http("wiki"), targets=(target,)))
        assert (problem.status, problem.field) == (422, "targets.address")
        assert word in problem.detail


async def test_a_udp_port_that_is_a_gateways_wireguard_port(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    await registry_world.enrol("gw1", "gateway", endpoints=("192.0.2.1:40000",))
    problem = await refused(registry_world, tcp("udp", 40000, udp=True))
    assert (problem.status, problem.field) == (422, "first_port")
    assert isinstance(await registry_world.ask(tcp("tcp", 40000)), Written)


async def test_create_only_does_not_replace(registry_world: World) -> None:
    await registry_world.enrol("site-a")
    await registry_world.ask(http("wiki"))
    problem = await refused(registry_world, msgspec.structs.replace(http("wiki"), create_only=True))
    assert (problem.status, problem.code) == (409, "exists")


async def test_a_freed_host_rests_for_others_but_not_for_its_own_service(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    await world.ask(http("wiki", "app.example.com"))
    assert isinstance(await world.ask(UnpublishService(actor="admin", service_id=ServiceId("wiki"))), Written)
    problem = await refused(world, http("other", "app.example.com"))
    assert (problem.status, problem.code, problem.holders) == (409, "host-resting", ("wiki",))
    assert isinstance(await world.ask(http("wiki", "app.example.com")), Written)
    assert isinstance(await world.ask(http("wiki", "new.example.com")), Written)
    assert (await refused(world, http("other", "app.example.com"))).code == "host-resting"
    await world.database.execute("update freed_host set until = clock_timestamp() - interval '1 second'")
    assert isinstance(await world.ask(http("other", "app.example.com")), Written)


async def test_the_same_request_is_written_once_and_another_under_its_key_is_refused(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    answers = await asyncio.gather(*(world.ask(http("wiki", key="k1")) for _ in range(8)))
    assert all(isinstance(answer, Written) for answer in answers), answers
    assert len({answer.seq for answer in answers if isinstance(answer, Written)}) == 1
    assert sum(answer.changed for answer in answers if isinstance(answer, Written)) == 1
    again = await world.ask(http("wiki", key="k1"))
    assert isinstance(again, Written)
    assert again == msgspec.structs.replace(
        next(a for a in answers if isinstance(a, Written) and a.changed), changed=False
    )
    problem = await refused(world, http("wiki", "another.example.com", key="k1"))
    assert (problem.status, problem.code) == (409, "idempotency-key-reused")


async def test_a_refused_request_may_be_tried_again_under_its_key(registry_world: World) -> None:
    world = registry_world
    assert (await refused(world, http("wiki", key="k1"))).status == 404
    await world.enrol("site-a")
    assert isinstance(await world.ask(http("wiki", key="k1")), Written)


async def test_one_token_is_redeemed_once_by_100_at_the_same_time(registry_world: World) -> None:
    world = registry_world
    secret_hash = await world.token("site-a")
    answers = await asyncio.gather(*(world.ask(redeem(secret_hash, SigningKey.generate())) for _ in range(100)))
    assert sum(isinstance(answer, Enrolled) for answer in answers) == 1
    problems = {(a.status, a.code, a.detail) for a in answers if isinstance(a, Problem)}
    assert len(problems) == 1
    unknown = await world.ask(redeem(hashlib.sha256(b"guess").digest(), SigningKey.generate()))
    assert isinstance(unknown, Problem)
    assert {(unknown.status, unknown.code, unknown.detail)} == problems, "used and unknown read alike"


async def test_an_expired_token_reads_like_an_unknown_one(registry_world: World) -> None:
    world = registry_world
    secret_hash = await world.token("site-a")
    await world.database.execute("update join_token set expires_at = clock_timestamp()")
    world.folds = False
    answer = await world.ask(redeem(secret_hash, SigningKey.generate()))
    assert isinstance(answer, Problem)
    assert answer.code == "token-refused"
    listed = await world.ask(ListTokens(actor="admin"))
    assert isinstance(listed, Tokens)
    assert [token.state for token in listed.items] == ["expired"]


async def test_an_enrolment_asked_again_under_its_key_gets_the_same_certificate(registry_world: World) -> None:
    world = registry_world
    command = msgspec.structs.replace(redeem(await world.token("site-a"), SigningKey.generate()), idempotency_key="e1")
    first, again = await world.ask(command), await world.ask(command)
    assert isinstance(first, Enrolled)
    assert isinstance(again, Enrolled)
    # The JWT is made for each answer, and says the second in which that was.
    assert first.bus_jwt
    assert msgspec.structs.replace(first, bus_jwt=again.bus_jwt) == again


async def test_a_second_node_with_the_same_identity_key_or_name(registry_world: World) -> None:
    world = registry_world
    first = await world.enrol("site-a")
    taken = await world.ask(redeem(await world.token("site-b"), first.identity))
    assert isinstance(taken, Problem)
    assert (taken.status, taken.code, taken.holders) == (409, "identity-taken", ("site-a",))
    command = CreateToken(
        actor="admin", role="agent", node_id=NodeId("site-a"), pool=PoolName(POOL), secret_hash=secrets.token_bytes(32)
    )
    exists = await world.ask(command)
    assert isinstance(exists, Problem)
    assert (exists.status, exists.code) == (409, "exists")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"networks": ("10.0.0.1/24",)}, "networks"),
        ({"networks": ("0.0.0.0/0",)}, "networks"),
        ({"networks": ("10.0.0.0/255.0.0.0",)}, "networks"),
        ({"endpoints": ("gw.example.com:51820",)}, "endpoints"),
        ({"sealing_key": PublicKey(bytes(32))}, "sealing_key"),
    ],
)
async def test_enrolments_of_bad_form(registry_world: World, change: dict[str, object], field: str) -> None:
    command = redeem(await registry_world.token("site-a"), SigningKey.generate())
    answer = await registry_world.ask(msgspec.structs.replace(command, **change))
    assert isinstance(answer, Problem)
    assert (answer.status, answer.field) == (422, field)
    assert isinstance(await registry_world.ask(command), Enrolled), "a refused request does not use up the token"


async def test_an_exhausted_pool_is_a_sentence(registry_world: World) -> None:
    world = registry_world
    await world.database.execute("update deployment set networks = array['10.0.0.0/23']::cidr[]")
    await world.enrol("site-a")
    await world.enrol("site-b")
    answer = await world.ask(redeem(await world.token("site-c"), SigningKey.generate()))
    assert isinstance(answer, Problem)
    assert (answer.status, answer.code) == (507, "exhausted")
    assert "10.0.0.0/23" in answer.detail
    await world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"))
    assert (await world.enrol("site-d")).certificate.subnet == "10.0.0.0/24"


async def test_a_gateway_that_overlaps_subnets_is_refused_with_the_list(registry_world: World) -> None:
    world = registry_world
    await world.enrol("site-a")
    await world.enrol("site-b", networks=("10.0.1.0/24",))
    answer = await world.ask(
        redeem(await world.token("gw1", "gateway"), SigningKey.generate(), networks=("10.0.0.0/16",))
    )
    assert isinstance(answer, Problem)
    assert (answer.status, answer.code) == (409, "subnet-conflict")
    assert answer.holders == ("site-a 10.0.0.0/24", "site-b 10.0.2.0/24")


async def test_a_node_with_services_is_removed_only_with_cascade(registry_world: World) -> None:
    world = registry_world
    await world.enrol("gw1", "gateway")
    await world.enrol("site-a")
    await world.ask(http("wiki"))
    await world.ask(tcp("ssh", 10022))
    command = RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent")
    answer = await world.ask(command)
    assert isinstance(answer, Problem)
    assert (answer.status, answer.holders) == (409, ("ssh", "wiki"))
    assert isinstance(await world.ask(msgspec.structs.replace(command, cascade=True)), Written)
    listed = await world.ask(ListServices(actor="admin"))
    assert isinstance(listed, Services)
    assert [(service.service_id, service.state, service.targets) for service in listed.items] == [
        ("ssh", "no-target", ()),
        ("wiki", "no-target", ()),
    ]
    gone = await world.ask(command)
    assert isinstance(gone, Problem)
    assert gone.status == 404


async def test_a_removed_node_may_come_back_with_a_new_certificate(registry_world: World) -> None:
    world = registry_world
    first = await world.enrol("site-a")
    await world.ask(RemoveNode(actor="admin", node_id=NodeId("site-a"), role="agent"))
    again = await world.enrol("site-a")
    assert again.certificate.serial == first.certificate.serial + 1
    assert again.certificate.identity_key == verify_key(again.identity)


async def test_a_freed_slot_is_reused_last(registry_world: World) -> None:
    world = registry_world
    assert (await world.enrol("gw1", "gateway")).certificate.slot == 1
    assert (await world.enrol("gw2", "gateway")).certificate.slot == 2
    await world.ask(RemoveNode(actor="admin", node_id=NodeId("gw1"), role="gateway"))
    assert (await world.enrol("gw3", "gateway")).certificate.slot == 3


TOKEN = {"type": "create-token.v1", "actor": "a", "role": "agent"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"{}",
        b"\x91" * 60000,
        encode({"type": "list-services.v1", "actor": "a", "more": 1}),
        encode({"type": "list-services.v1", "actor": 1}),
        encode({"type": "list-services.v9", "actor": "a"}),
        encode({"actor": "a"}),
        encode({"type": "list-nodes.v1", "actor": "a", "role": "king"}),
        encode({**TOKEN, "node_id": "A", "pool": "p", "secret_hash": b"h" * 32}),
        encode({**TOKEN, "node_id": "a", "pool": "*", "secret_hash": b"h" * 32}),
        encode({**TOKEN, "node_id": "a", "pool": "p", "secret_hash": b"h"}),
    ],
)  # fmt: skip
async def test_messages_that_are_not_the_agreed_encoding(registry_world: World, nats: MemoryNats, data: bytes) -> None:
    answer = await nats.connect("portal").request(subjects.COMMAND, data, timeout_s=5)
    problem = decode_any(answer.data, AnyResult, name="result")
    assert isinstance(problem, Problem)
    assert (problem.status, problem.code) == (400, "malformed")


async def test_nul_characters_are_refused_before_they_reach_the_database(registry_world: World) -> None:
    problem = await registry_world.ask(msgspec.structs.replace(http("wiki"), actor="a\0b"))
    assert isinstance(problem, Problem)
    assert (problem.status, problem.field) == (422, "actor")
