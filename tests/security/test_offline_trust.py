"""Trust keys that never see the server: nodes wait for them, two of three sign, and the server alone makes nobody."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from nacl.signing import SigningKey

from kakuremichi.cli.__main__ import cli
from kakuremichi.node import enrol as enrolling
from kakuremichi.reconcile.verify import NotTrustedError
from kakuremichi.wire import commands, signing
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.granting import Grants, TrustKeyFile
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.signing import DeploymentId, Signed
from kakuremichi_registry.trust import Trust, open_trust
from support.offline import Deployment
from support.real_registry import redeem

pytestmark = pytest.mark.timeout(120)


async def test_a_node_waits_until_two_of_three_keys_have_signed_what_it_may_serve(offline: Deployment) -> None:
    node = await offline.begin("site-a")
    pending = offline.folder / "pending.json"
    said = await offline.cli("trust", "pending", "-o", str(pending))
    assert "agent site-a, pool default, subnet 10.0.0.0/24" in said
    assert "hosts none, ports none" in said

    grant = ("--hosts", "wiki.example.com", "--ports", "6000-6100,7000")
    first = await offline.signed_by(pending, 1, *grant)
    assert "site-a: 1 of 2 signatures" in await offline.cli("trust", "submit", str(first))
    assert "site-a: 1 of 2 signatures" in await offline.cli("trust", "submit", str(first))  # again changes nothing
    assert not node.done()
    third = await offline.signed_by(pending, 3, *grant)  # each from its own copy of the pending file
    assert "site-a: 2 of 2 signatures" in await offline.cli("trust", "submit", str(third))

    enrolment = await asyncio.wait_for(node, 20)
    certificate = enrolment.node
    assert (certificate.hosts, certificate.ports) == (("wiki.example.com",), ("6000-6100", "7000"))
    enrolment.verifier().certificate(enrolment.answer.certificate, new=True)
    assert enrolment.answer.bus.jwt
    events = await offline.registry.ask(commands.ListEvents(actor="test"))
    assert isinstance(events, commands.Events)
    assert [event.topic for event in events.items] == [
        "token-created", "node-enrolled", "node-certified", "node-certified",
    ]  # fmt: skip


async def test_the_signatures_may_also_be_collected_in_one_file(offline: Deployment) -> None:
    node = await offline.begin("gw1", "gateway")
    pending = offline.folder / "pending.json"
    await offline.cli("trust", "pending", "-o", str(pending))
    both = await offline.signed_by(pending, 2)
    await offline.cli("trust", "sign", str(both), "--key", str(offline.key(3)), "--yes")
    assert "2 of 2 signatures" in await offline.cli("trust", "show", str(both))

    await offline.cli("trust", "submit", str(both))

    assert (await asyncio.wait_for(node, 20)).node.slot == 1


async def test_what_waits_is_read_a_page_at_a_time(offline: Deployment) -> None:
    nodes = [await offline.begin(name) for name in ("site-a", "site-b", "site-c")]
    seen, after = [], ""
    for _ in nodes:
        command = commands.ListPending(actor="test", limit=1, after=after)
        page = await offline.registry.ask(command)
        assert isinstance(page, commands.PendingCertificates)
        seen += [decode(certificate.body, Certificate).node_id for certificate in page.certificates]
        after = page.next_after
    assert seen == ["site-a", "site-b", "site-c"]
    # Without a limit the portal turns the pages.
    pending = offline.folder / "pending.json"
    assert "3 wait" in await offline.cli("trust", "pending", "-o", str(pending))
    assert len(msgspec.json.decode(pending.read_bytes(), type=Grants).certificates) == 3
    for node in nodes:
        node.cancel()


async def test_who_holds_the_server_cannot_complete_a_node(offline: Deployment) -> None:
    """The registry's own keys, the feed key above all, sign nothing that a node would believe."""
    node = await offline.begin("site-a")
    trust = offline.registry.trust
    assert trust.offline
    assert not trust.trust_keys
    answer = await offline.registry.ask(commands.ListPending(actor="thief"))
    assert isinstance(answer, commands.PendingCertificates)
    waiting = answer.certificates[0]
    forged = signing.sign(signing.CERTIFICATE, trust.deployment, waiting.body, trust.feed_key, SigningKey.generate())
    with pytest.raises(NotTrustedError):
        offline.registry.verifier().certificate(forged, new=True)

    refused = await offline.registry.ask(commands.SubmitGrant(actor="thief", certificate=forged))

    assert isinstance(refused, commands.Problem)
    assert "no signature by a trust key" in refused.detail
    # Even straight into the database: the node itself looks.
    await offline.registry.database.execute("update node set certificate = $1, pending = false", encode(forged))
    with pytest.raises(enrolling.EnrolmentRefusedError, match="0 valid signatures"):
        await asyncio.wait_for(node, 20)


@pytest.mark.parametrize("change", ["subnet", "identity", "name", "dates", "serial"])
async def test_a_signature_counts_only_for_what_the_registry_proposed(offline: Deployment, change: str) -> None:
    node = await offline.begin("site-a")
    answer = await offline.registry.ask(commands.ListPending(actor="test"))
    assert isinstance(answer, commands.PendingCertificates)
    certificate = decode(answer.certificates[0].body, Certificate)
    others: dict[str, dict[str, Any]] = {
        "subnet": {"subnet": "10.9.9.0/24"},
        "identity": {"identity_key": bytes(SigningKey.generate().verify_key)},
        "name": {"node_id": "site-b"},
        "dates": {"not_after": certificate.not_after + 10**8},
        "serial": {"serial": 7},
    }
    body = encode(msgspec.structs.replace(certificate, **others[change]))
    signed = signing.sign(signing.CERTIFICATE, offline.registry.trust.deployment, body, *_keys(offline))

    refused = await offline.registry.ask(commands.SubmitGrant(actor="ann", certificate=signed))

    assert isinstance(refused, commands.Problem)
    assert refused.code == ("not-pending" if change == "name" else "not-proposed")
    node.cancel()


async def test_two_keys_that_disagree_are_told_so(offline: Deployment) -> None:
    node = await offline.begin("site-a")
    pending = offline.folder / "pending.json"
    await offline.cli("trust", "pending", "-o", str(pending))
    narrow = await offline.signed_by(pending, 1, "--hosts", "wiki.example.com")
    wide = await offline.signed_by(pending, 2, "--hosts", "*", "--ports", "*")
    await offline.cli("trust", "submit", str(narrow))

    assert "agree on one" in await offline.cli("trust", "submit", str(wide), code=5)
    said = await offline.cli(
        "trust", "sign", str(narrow), "--key", str(offline.key(2)), "--yes", "--hosts", "*", code=2
    )
    assert "all keys sign the same" in said
    node.cancel()


async def test_a_pending_node_gets_neither_a_bus_nor_a_place_among_the_peers(offline: Deployment) -> None:
    node = await offline.begin("site-a")

    known = await offline.registry.ask(commands.ListNodes(actor="test", role="agent"))

    assert isinstance(known, commands.Nodes)
    assert known.items[0].state == "pending"
    feeds = await offline.registry.database.fetch("select count(*) from feed_item")
    assert feeds[0][0] == 0
    from kakuremichi_registry.store import nodes  # noqa: PLC0415

    assert await nodes.certificate_of(offline.registry.database, "site-a") is None  # keyring and renewal ask this
    node.cancel()


async def test_a_stranger_with_another_identity_learns_nothing_from_a_used_token(offline: Deployment) -> None:
    secret_hash = await offline.registry.token("site-a")
    mine, stranger = SigningKey.generate(), SigningKey.generate()
    command = redeem(secret_hash, mine)
    assert isinstance(await offline.registry.ask(command), commands.EnrolmentWaiting)
    assert isinstance(await offline.registry.ask(command), commands.EnrolmentWaiting)

    for odd in (redeem(secret_hash, stranger), redeem(bytes(32), stranger)):
        refused = await offline.registry.ask(odd)
        assert isinstance(refused, commands.Problem)
        assert (refused.status, refused.code) == (403, "token-refused")


def test_the_servers_folder_holds_no_trust_key(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["trust", "init", str(tmp_path / "all")])
    assert result.exit_code == 0, result.output
    seeds = {
        msgspec.json.decode(path.read_bytes(), type=TrustKeyFile).seed
        for path in (tmp_path / "all").glob("trust-*.key")
    }
    assert len(seeds) == 3
    server = [path for path in (tmp_path / "all" / "server").rglob("*") if path.is_file()]
    for path in [*server, *(tmp_path / "all").glob("*.key")]:
        assert path.stat().st_mode & 0o777 == 0o600
    for path in server:
        for seed in seeds:
            assert seed not in path.read_bytes()
            assert seed.hex().encode() not in path.read_bytes()
    again = CliRunner().invoke(cli, ["trust", "init", str(tmp_path / "all")])
    assert "exists; keys are never written over" in again.output


def test_the_offline_side_refuses_what_is_not_of_its_deployment(tmp_path: Path) -> None:
    for name in ("one", "two"):
        CliRunner().invoke(cli, ["trust", "init", str(tmp_path / name)])
    trust: Trust = open_trust(tmp_path / "one" / "server")
    file = tmp_path / "pending.json"
    grants = Grants(deployment=trust.deployment, trust=trust.trust_set, certificates=())
    file.write_bytes(msgspec.json.encode(grants))
    foreign = CliRunner().invoke(cli, ["trust", "sign", str(file), "--key", str(tmp_path / "two" / "trust-1.key")])
    assert "of another deployment" in foreign.output
    body = trust.trust_set.body
    tampered = Grants(
        deployment=trust.deployment, trust=Signed(body, trust.trust_set.signatures[:1] * 2), certificates=()
    )
    file.write_bytes(msgspec.json.encode(tampered))
    weak = CliRunner().invoke(cli, ["trust", "sign", str(file), "--key", str(tmp_path / "one" / "trust-1.key")])
    assert "1 valid signatures by the keys that count, 2 needed" in weak.output


def _keys(offline: Deployment) -> list[SigningKey]:
    files = [msgspec.json.decode(offline.key(n).read_bytes(), type=TrustKeyFile) for n in (1, 2)]
    assert {DeploymentId(file.deployment) for file in files} == {offline.registry.trust.deployment}
    return [SigningKey(file.seed) for file in files]
