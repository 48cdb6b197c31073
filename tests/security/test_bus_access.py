"""Who gets onto the bus, for how long, and how somebody is cut off: JWTs on a real nats-server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.claims import push_revocation
from kakuremichi.bus.credentials import own_credentials, read_credentials
from kakuremichi.bus.issuer import (
    MOST_REVOKED,
    IssuerError,
    MintRefusedError,
    NodeIssuer,
    RoleIssuer,
    node_user,
    open_issuer,
)
from kakuremichi.bus.jwt import Signer
from kakuremichi.bus.nats import Credentials, NatsBus, NatsOptions
from kakuremichi.bus.nkey import public_text, read_seed
from kakuremichi.bus.operator import init_operator
from kakuremichi.bus.port import BusError, BusUnavailableError, Message
from kakuremichi.bus.server import NatsServer, running_server
from kakuremichi.bus.topology import GATEWAY
from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.model.keys import VerifyKey
from kakuremichi.runtime.backoff import Backoff
from kakuremichi.wire.signing import verify_key

BLUE, NODE = PoolName("blue"), NodeId("gw-1")
QUICK = Backoff(0.05, 0.2)

Ask = Callable[[], Awaitable[Credentials]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path) as server:
        yield server


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def client(server: NatsServer, credentials: Ask, node: str = NODE) -> NatsBus:
    options = NatsOptions(servers=(server.url,), name=node, inbox_prefix=f"reply.{node}", backoff=QUICK, stable_s=0.2)
    return NatsBus(options, credentials)


def shows(text: str, key: SigningKey) -> Ask:
    async def credentials() -> Credentials:
        return own_credentials(text, key)

    return credentials


async def refused(server: NatsServer, credentials: Ask) -> None:
    """Nobody comes in with these, however often they try."""
    async with client(server, credentials) as bus:
        await until(lambda: bus.counts["credentials_refused"] >= 2)
        assert bus.generation == 0


async def ignore(message: Message) -> None:
    pass


async def until(true: Callable[[], bool], within_s: float = 30) -> float:
    """Seconds until it is."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110  (what is waited for lies in another process)
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_an_expired_jwt_costs_one_connection_and_the_next_has_a_fresh_one(
    server: NatsServer, key: SigningKey
) -> None:
    """The client library closes for good then; the wrapper makes a new one."""
    issuer, asked = server.issuer, 0

    async def credentials() -> Credentials:
        nonlocal asked
        asked += 1
        life_s = 3 if asked == 1 else 3600
        text = node_user(issuer.roles["gateway"], verify_key(key), NODE, BLUE, life_s=life_s)
        return own_credentials(text, key)

    heard: list[bytes] = []

    async def hear(message: Message) -> None:
        heard.append(message.data)

    async with client(server, credentials) as bus, server.bus("registry") as registry:
        await bus.wait_connected(5)
        await registry.wait_connected(5)
        await bus.subscribe("feed.pool.blue", hear)
        await until(lambda: bus.generation == 2, within_s=8)
        await registry.publish("feed.pool.blue", b"after")
        await until(lambda: heard == [b"after"])
        assert asked == 2


async def test_an_expired_jwt_is_refused(server: NatsServer, key: SigningKey) -> None:
    text = node_user(server.issuer.roles["gateway"], verify_key(key), NODE, BLUE, life_s=60, now=time.time() - 3600)
    await refused(server, shows(text, key))


async def test_a_jwt_is_of_no_use_without_its_key(server: NatsServer, key: SigningKey) -> None:
    text = server.issuer.mint("gateway", verify_key(key), NODE, BLUE)
    await refused(server, shows(text, SigningKey.generate()))


async def test_another_deployments_signature_is_refused(server: NatsServer, key: SigningKey, tmp_path: Path) -> None:
    foreign = open_issuer(init_operator(tmp_path / "foreign").registry)
    await refused(server, shows(foreign.mint("gateway", verify_key(key), NODE, BLUE), key))
    ours = server.issuer.roles["gateway"].account
    posing = replace(foreign.roles["gateway"], account=ours)
    await refused(server, shows(node_user(posing, verify_key(key), NODE, BLUE, life_s=60), key))


async def test_a_key_of_the_control_plane_lets_nobody_into_the_edge(server: NatsServer, key: SigningKey) -> None:
    seed = server.operator.directory / "control" / "portal.seed"
    portal = Signer("account", read_seed("account", seed.read_text()))
    edge = server.operator.accounts.public("EDGE")
    text = node_user(RoleIssuer(GATEWAY, edge, portal), verify_key(key), NODE, BLUE, life_s=60)
    await refused(server, shows(text, key))


async def test_a_jwt_that_brings_its_own_permissions_is_refused(server: NatsServer, key: SigningKey) -> None:
    issuer = server.issuer.roles["gateway"]
    everything = {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1, "data": -1, "payload": -1}
    claims = {"type": "user", "version": 2, "issuer_account": issuer.account, "tags": ["pool:blue"], **everything}
    text = jwt.sign(issuer.signer, public_text("user", verify_key(key)), NODE, claims)
    await refused(server, shows(text, key))


async def test_no_key_on_disk_can_make_an_unlimited_user(server: NatsServer, key: SigningKey) -> None:
    """The root signs no account, the accounts' own keys are gone, and what is left is scoped."""
    claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    for file in server.operator.directory.rglob("*.seed"):
        kind = "operator" if file.stem in ("operator", "accounts") else "account"
        signer = Signer(kind, read_seed(kind, file.read_text()))  # type: ignore[arg-type]
        for account in ("SYS", "CP", "EDGE"):
            issued_for = {"issuer_account": server.operator.accounts.public(account)}
            text = jwt.sign(signer, public_text("user", verify_key(key)), "anybody", {**claims, **issued_for})
            await refused(server, shows(text, key))


async def test_a_node_has_the_pool_of_its_jwt_and_no_other(server: NatsServer, key: SigningKey) -> None:
    text = server.issuer.mint("gateway", verify_key(key), NODE, PoolName("red"))
    async with client(server, shows(text, key)) as bus:
        await bus.wait_connected(5)
        await bus.subscribe("feed.pool.red", ignore)
        for subject in ("feed.pool.blue", "beacon.pool.blue", "feed.pool.Red", "feed.pool.*"):
            with pytest.raises(BusError, match="may not subscribe"):
                await bus.subscribe(subject, ignore)


async def test_without_a_pool_a_node_hears_no_feed(server: NatsServer, key: SigningKey) -> None:
    """A template without its tag fails closed; it does not become "everything"."""
    issuer = server.issuer.roles["gateway"]
    for tags in ([], ["POOL:blue"], ["group:blue"]):
        claims = {"type": "user", "version": 2, "issuer_account": issuer.account, "tags": tags}
        text = jwt.sign(issuer.signer, public_text("user", verify_key(key)), NODE, claims)
        async with client(server, shows(text, key)) as bus:
            await bus.wait_connected(5)
            for subject in ("feed.pool.blue", "feed.pool.*", ">"):
                with pytest.raises(BusError, match="may not subscribe"):
                    await bus.subscribe(subject, ignore)


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "", "Blue", "blue ", "-blue", "b" * 32, "{{name()}}", "blue\n"])
async def test_the_mint_refuses_what_the_server_would_read_as_more(
    server: NatsServer, key: SigningKey, bad: str
) -> None:
    with pytest.raises(MintRefusedError, match="pool"):
        server.issuer.mint("gateway", verify_key(key), NODE, PoolName(bad))
    with pytest.raises(MintRefusedError, match="node id"):
        server.issuer.mint("agent", verify_key(key), NodeId(bad), BLUE)


async def test_who_is_revoked_is_cut_off_at_once_and_stays_out(server: NatsServer, key: SigningKey) -> None:
    text = server.issuer.mint("gateway", verify_key(key), NODE, BLUE)
    async with (
        server.bus("claims") as claims,
        server.bus("agent", node="ag-1") as bystander,
        client(server, shows(text, key)) as bus,
    ):
        for each in (claims, bystander, bus):
            await each.wait_connected(5)
        await push_revocation(claims, server.issuer, {verify_key(key): time.time()})

        assert await until(lambda: not bus.connected) < 1
        await until(lambda: bus.counts["credentials_refused"] >= 3)
        assert bus.generation == 1
        assert (bystander.connected, bystander.generation) == (True, 1)

        await server.stop()
        await server.start()
        await bystander.wait_connected(10)
        refused_before = bus.counts["credentials_refused"]
        await until(lambda: bus.counts["credentials_refused"] >= refused_before + 2)
        assert bus.generation == 1
    init_operator(server.operator.directory)  # as `up` does at each start: it must not lose the revocation
    assert await is_kept_out_of_a_fresh_server(server, text, key)


async def is_kept_out_of_a_fresh_server(server: NatsServer, text: str, key: SigningKey) -> bool:
    accounts = init_operator(server.operator.directory).accounts
    folder = server.folder / "fresh"
    folder.mkdir()
    config = replace(server.config, accounts=accounts, store_dir=folder / "store")
    await server.stop()
    fresh = NatsServer(server.binary, folder, config, server.operator)
    await fresh.start()
    try:
        await refused(fresh, shows(text, key))
    finally:
        await fresh.stop()
        await server.start()
    return True


async def test_two_revocations_in_one_second_both_count(server: NatsServer) -> None:
    keys = [SigningKey.generate() for _ in range(5)]
    texts = [server.issuer.mint("gateway", verify_key(key), NodeId(f"gw-{n}"), BLUE) for n, key in enumerate(keys)]
    revoked: dict[VerifyKey, float] = {}
    async with server.bus("claims") as claims:
        await claims.wait_connected(5)
        for key in keys:
            revoked[verify_key(key)] = time.time()
            await push_revocation(claims, server.issuer, revoked)
    for key, text in zip(keys, texts, strict=True):
        await refused(server, shows(text, key))


async def test_a_newer_jwt_is_let_in_again_so_renewal_has_to_refuse(server: NatsServer, key: SigningKey) -> None:
    """What the second of the three cuts is for."""
    async with server.bus("claims") as claims:
        await claims.wait_connected(5)
        await push_revocation(claims, server.issuer, {verify_key(key): time.time() - 10})
    async with client(server, shows(server.issuer.mint("gateway", verify_key(key), NODE, BLUE), key)) as bus:
        await bus.wait_connected(5)


def test_revocations_are_forgotten_once_every_jwt_of_them_has_expired(tmp_path: Path) -> None:
    issuer = open_issuer(init_operator(tmp_path / "operator").registry, life_s=3600)
    now = time.time()
    old, new = VerifyKey(bytes(range(32))), VerifyKey(bytes(range(1, 33)))

    claims = jwt.read(issuer.revoke({old: now - 4000, new: now - 3000}))
    assert list(claims.nats["revocations"]) == [public_text("user", new)]
    assert jwt.read(issuer.revoke({new: now - 3000})) == claims  # the same again is not signed again
    assert "revocations" not in jwt.read(issuer.revoke({})).nats

    many = {VerifyKey(number.to_bytes(32, "big")): now for number in range(MOST_REVOKED)}
    assert len(issuer.revoke(many)) < 65536
    with pytest.raises(IssuerError, match="revocations: 601 within one life of a JWT"):
        issuer.revoke({**many, new: now})


async def test_a_server_says_why_it_does_not_take_an_account(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeIssuer, "revoke", lambda _self, _revoked: "junk")
    async with server.bus("claims") as claims:
        await claims.wait_connected(5)
        with pytest.raises(BusError, match=r"claims: the server did not take the account \(.*expected 3 chunks"):
            await push_revocation(claims, server.issuer, {VerifyKey(bytes(32)): time.time()})


async def test_an_account_that_another_operator_signed_changes_nothing(server: NatsServer, key: SigningKey) -> None:
    """The server says yes, stores it, and does not apply it."""
    foreign = replace(server.issuer, accounts_signer=Signer("operator", SigningKey.generate()))
    text = server.issuer.mint("gateway", verify_key(key), NODE, BLUE)
    async with server.bus("claims") as claims, client(server, shows(text, key)) as bus:
        await claims.wait_connected(5)
        await bus.wait_connected(5)
        await push_revocation(claims, foreign, {verify_key(key): time.time()})
        await claims._supervisor.connection.round_trip(5)  # type: ignore[union-attr]
        await bus.publish(f"report.{NODE}", b"")
        await bus._supervisor.connection.round_trip(5)  # type: ignore[union-attr]
        assert (bus.connected, bus.generation, bus.counts["violations"]) == (True, 1, 0)


async def test_another_role_cannot_hand_in_accounts(server: NatsServer) -> None:
    async with server.bus("registry") as registry:
        await registry.wait_connected(5)
        with pytest.raises(BusError, match="may not publish"):
            await push_revocation(registry, server.issuer, {VerifyKey(bytes(32)): time.time()})


async def test_templates_that_a_release_changes_are_signed_anew_and_keep_revocations(tmp_path: Path) -> None:
    operator = init_operator(tmp_path / "operator")
    before = dict(operator.accounts.jwts)
    assert init_operator(operator.directory).accounts.jwts == before
    issuer = open_issuer(operator.registry)
    issuer.revoke({VerifyKey(bytes(32)): time.time()})
    path = operator.registry / "EDGE.jwt"
    known = jwt.read(path.read_text())
    older = {**known.nats, "signing_keys": []}
    path.write_text(jwt.sign(issuer.accounts_signer, known.subject, known.name, older))

    again = jwt.read(init_operator(operator.directory).accounts.jwts["EDGE"])
    assert again.subject == known.subject
    assert again.nats == known.nats


async def test_a_stolen_credential_of_the_control_plane_ends_with_its_signing_key(
    server: NatsServer, tmp_path: Path
) -> None:
    """Remove the role's seed, start again: key, template and file are exchanged, the others stay as they are."""
    directory = server.operator.directory
    stolen, others = read_credentials(server.operator.credentials("portal")), server.operator.credentials("keyring")
    kept = others.read_bytes()
    (directory / "control" / "portal.seed").unlink()

    operator = init_operator(directory)

    config = replace(server.config, accounts=operator.accounts, store_dir=tmp_path / "exchanged")
    await server.stop()
    again = NatsServer(server.binary, server.folder, config, operator)
    await again.start()
    try:
        await refused(again, shows_stolen(stolen))
        async with again.bus("portal") as portal, again.bus("keyring") as keyring:
            await portal.wait_connected(5)
            await keyring.wait_connected(5)
    finally:
        await again.stop()
        await server.start()
    assert others.read_bytes() == kept


def shows_stolen(stolen: Credentials) -> Ask:
    async def credentials() -> Credentials:
        return stolen

    return credentials


async def test_nobody_comes_in_without_credentials(server: NatsServer) -> None:
    class Nobody(Credentials):
        def connect_options(self) -> dict[str, object]:
            return {}

    async def credentials() -> Credentials:
        return Nobody("", bytes)

    await refused(server, credentials)


def test_roles_are_data_and_every_one_has_its_own_key(tmp_path: Path) -> None:
    operator = init_operator(tmp_path / "operator")
    keys = [file.read_text() for file in operator.directory.rglob("*.seed")]
    assert len(keys) == len(set(keys))
    for file in operator.directory.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0 or file.is_dir(), file


async def test_a_stopped_server_is_no_refusal(server: NatsServer, key: SigningKey) -> None:
    """Else a whole fleet would ask the portal whenever NATS is down."""
    text = server.issuer.mint("gateway", verify_key(key), NODE, BLUE)
    async with client(server, shows(text, key)) as bus:
        await bus.wait_connected(5)
        await server.stop()
        await until(lambda: bus.counts["connection_failures"] >= 2)
        assert bus.counts["credentials_refused"] == 0
        with pytest.raises(BusUnavailableError):
            await bus.publish("report.gw-1", b"")
        await server.start()
