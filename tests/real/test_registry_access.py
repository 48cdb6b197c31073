"""The registry lets nodes onto the bus and cuts them off: a real PostgreSQL and a real nats-server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.connection import Credentials
from kakuremichi.bus.credentials import own_credentials
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.nkey import public_text
from kakuremichi.bus.provision import provision
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.wire import requests, signing, subjects
from kakuremichi.wire.codec import decode_any, encode
from kakuremichi.wire.commands import AccessRenewed, Problem, RemoveNode, RenewAccess, Written
from kakuremichi.wire.identity import Renewal
from kakuremichi.wire.renewal import RENEWAL, request_to_renew
from kakuremichi.wire.signing import Signed, verify_key
from kakuremichi_registry.trust import Trust
from support.real_registry import Enrollee, World, world

REFUSED = "renewal: not by a node that is enrolled, or its clock is more than 5 minutes off"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server, server.bus("provision") as bus:
        await bus.wait_connected(5)
        await provision(bus)
        yield server


@pytest.fixture
async def deployed(server: NatsServer, dsn: str, trust: Trust) -> AsyncIterator[World]:
    async with server.bus("registry") as registry, server.bus("portal") as portal, server.bus("claims") as claims:
        for bus in (registry, portal, claims):
            await bus.wait_connected(5)
        async with world(dsn, trust, registry, portal, claims_bus=claims, issuer=server.issuer) as made:
            yield made


def bus_of(server: NatsServer, node: Enrollee, text: str = "") -> NatsBus:
    async def credentials() -> Credentials:
        return own_credentials(text or node.enrolled.bus_jwt, node.identity)

    options = NatsOptions(
        servers=(server.url,), name=node.node_id, inbox_prefix=f"reply.{node.node_id}", backoff=Backoff(0.05, 0.2)
    )
    return NatsBus(options, credentials)


async def until(true: Callable[[], bool]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  (what is waited for lies in another process)
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def over_http(deployed: World, renewal: Signed) -> AccessRenewed | Problem:
    answer = await deployed.ask(RenewAccess(actor="node", renewal=renewal, source="198.51.100.7"))
    assert isinstance(answer, AccessRenewed | Problem)
    return answer


def wish(deployed: World, node: Enrollee, *, now: float | None = None, serial: int = 0) -> Signed:
    request = request_to_renew(
        deployed.trust.deployment, node.node_id, serial or node.certificate.serial, node.identity, now=now
    )
    return request.renewal


async def test_enrolment_gives_a_jwt_for_a_day_with_which_the_node_renews_it(
    server: NatsServer, deployed: World
) -> None:
    node = await deployed.enrol("gw1", "gateway")
    first = jwt.read(node.enrolled.bus_jwt)
    assert first.subject == public_text("user", verify_key(node.identity))
    assert (first.exp - first.issued_at, first.nats["tags"]) == (86400, ["pool:main"])
    async with bus_of(server, node) as bus:
        await bus.wait_connected(5)
        reply = await bus.request(subjects.renew(node.node_id), encode(requests.Renew()), timeout_s=5)
        answer = decode_any(reply.data, requests.Renewed | requests.RenewalRefused, name="answer")
        assert isinstance(answer, requests.Renewed)
        assert jwt.read(answer.jwt).subject == first.subject


async def test_no_jwt_is_kept_in_the_database(deployed: World) -> None:
    node = await deployed.enrol("gw1", "gateway")
    signature = node.enrolled.bus_jwt.rpartition(".")[2]
    for table in ("node", "event_log", "idempotency", "feed_item", "join_token"):
        for row in await deployed.database.fetch(f"select t::text from {table} t"):  # noqa: S608  # names of ours
            assert signature not in row[0]
            assert signature.encode().hex() not in row[0]


async def test_who_is_removed_is_cut_off_in_a_second_and_gets_no_other_jwt(server: NatsServer, deployed: World) -> None:
    node, bystander = await deployed.enrol("gw1", "gateway"), await deployed.enrol("gw2", "gateway")
    async with bus_of(server, node) as bus, bus_of(server, bystander) as other:
        await bus.wait_connected(5)
        await other.wait_connected(5)

        removed = await deployed.ask(RemoveNode(actor="admin", role="gateway", node_id=node.node_id))

        assert isinstance(removed, Written)
        assert await until(lambda: not bus.connected) < 1
        await until(lambda: bus.counts["credentials_refused"] >= 2)
        refused = await over_http(deployed, wish(deployed, node))
        assert isinstance(refused, Problem)
        assert (refused.status, refused.detail) == (403, REFUSED)
        assert (other.connected, other.generation, bus.generation) == (True, 1, 1)


async def test_a_name_that_is_enrolled_anew_does_not_let_its_former_holder_in(
    server: NatsServer, deployed: World
) -> None:
    former = await deployed.enrol("gw1", "gateway")
    await deployed.ask(RemoveNode(actor="admin", role="gateway", node_id=former.node_id))
    new = await deployed.enrol("gw1", "gateway")
    deployed.registry.cuts.wake()
    async with bus_of(server, new) as bus, bus_of(server, former) as other:
        await bus.wait_connected(5)
        await until(lambda: other.counts["credentials_refused"] >= 2)
        assert other.generation == 0
    assert isinstance(await over_http(deployed, wish(deployed, former, serial=new.certificate.serial)), Problem)
    assert isinstance(await over_http(deployed, wish(deployed, new)), AccessRenewed)


async def test_a_server_that_lost_its_memory_is_told_again(server: NatsServer, deployed: World) -> None:
    node = await deployed.enrol("gw1", "gateway")
    await deployed.ask(RemoveNode(actor="admin", role="gateway", node_id=node.node_id))
    async with bus_of(server, node) as bus:
        await until(lambda: bus.counts["credentials_refused"] >= 1)
        await server.stop()
        for file in (server.folder / "store" / "accounts").glob("*.jwt"):
            file.unlink()
        await server.start()  # with the accounts as they were when this server was first configured
        seen = bus.counts["credentials_refused"]
        await until(lambda: not bus.connected and bus.counts["credentials_refused"] >= seen + 2)
        assert not bus.connected


async def test_an_expired_node_comes_back_by_its_signature(server: NatsServer, deployed: World) -> None:
    node = await deployed.enrol("site-a")
    renewed = await over_http(deployed, wish(deployed, node))
    assert isinstance(renewed, AccessRenewed)
    async with bus_of(server, node, renewed.jwt) as bus:
        await bus.wait_connected(5)


async def test_a_renewal_that_is_not_the_nodes_own_is_refused_in_one_sentence(deployed: World) -> None:
    node, other = await deployed.enrol("site-a"), await deployed.enrol("site-b")
    stranger = Enrollee(node.enrolled, SigningKey.generate())
    own = wish(deployed, node)
    said = Renewal(node_id=node.node_id, serial=1, at=int(time.time()), nonce=bytes(16))
    foreign = signing.sign(RENEWAL, signing.DeploymentId(bytes(16)), encode(said), node.identity)
    unknown = request_to_renew(deployed.trust.deployment, "nobody", 1, SigningKey.generate()).renewal  # type: ignore[arg-type]
    bad = {
        "another key": wish(deployed, stranger),
        "another node's key": Signed(own.body, wish(deployed, other).signatures),
        "an announcement instead": node.announcement(),
        "another deployment": foreign,
        "old": wish(deployed, node, now=time.time() - 301),
        "of the future": wish(deployed, node, now=time.time() + 301),
        "another certificate": wish(deployed, node, serial=2),
        "unknown": unknown,
        "junk": Signed(b"junk", own.signatures),
        "unsigned": Signed(own.body, ()),
    }
    for why, renewal in bad.items():
        answer = await over_http(deployed, renewal)
        assert isinstance(answer, Problem), why
        assert (answer.status, answer.code, answer.detail) == (403, "renewal-refused", REFUSED), why
    assert isinstance(await over_http(deployed, own), AccessRenewed)
    assert isinstance(await over_http(deployed, own), Problem)  # said twice
