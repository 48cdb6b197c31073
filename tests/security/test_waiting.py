"""What waits for trust keys that lie elsewhere waits as long as it takes: new nodes, and certificates that go on."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.model.ids import NodeId
from kakuremichi.node.certificate import check_next
from kakuremichi.node.cli import NodeOptions
from kakuremichi.node.join import join
from kakuremichi.node.state import NodeState
from kakuremichi.runtime.config import ConfigError
from kakuremichi.wire import requests, signing, subjects
from kakuremichi.wire.codec import decode, decode_any, encode
from kakuremichi.wire.granting import Grants
from kakuremichi.wire.identity import Certificate
from kakuremichi.wire.signing import Signed
from kakuremichi_registry import enrolment
from support.offline import Deployment

pytestmark = pytest.mark.timeout(120)

DAY_S = 86400


async def test_a_node_waits_without_limit_whatever_becomes_of_its_token_and_of_the_portal(offline: Deployment) -> None:
    node = await offline.begin("site-a")
    # The token is long over and forgotten; the portal fails, and is overrun by others behind the same address.
    await offline.registry.database.execute("delete from join_token")
    offline.mishaps += [500, 429, 502, 429, 503] * 4

    async with asyncio.timeout(20):
        while offline.mishaps:
            assert not node.done(), node.exception()
            await asyncio.sleep(0.02)
    await offline.sign()

    assert (await asyncio.wait_for(node, 20)).node.node_id == "site-a"


async def test_the_service_goes_on_where_an_interrupted_join_waited_and_removes_the_token(offline: Deployment) -> None:
    text = await offline.join_token("site-a", "agent")
    state = NodeState(offline.folder / "site-a")
    state.open()
    person = asyncio.create_task(join(state, text, "kk0"))
    await offline.until(lambda states: states.get("site-a") == "pending")
    person.cancel()
    assert state.join_token_file.read_text() == text
    assert state.join_token_file.stat().st_mode & 0o777 == 0o600

    service = asyncio.create_task(NodeOptions(state, "kk0", offline.folder).enrolled(networks=()))
    await offline.sign()

    assert (await asyncio.wait_for(service, 20)).node.node_id == "site-a"
    assert not state.join_token_file.exists()


async def test_a_join_token_file_is_removed_when_the_token_is_used_up(offline: Deployment) -> None:
    file = offline.folder / "token"
    file.write_text(await offline.join_token("site-a", "agent") + "\n")
    state = NodeState(offline.folder / "site-a")
    state.open()
    service = asyncio.create_task(
        NodeOptions(state, "kk0", offline.folder, token_file=file).enrolled(networks=("192.168.7.0/24",))
    )
    await offline.until(lambda states: states.get("site-a") == "pending")
    assert file.exists()

    await offline.sign()

    await asyncio.wait_for(service, 20)
    assert not file.exists()


async def test_a_used_token_in_a_file_ends_the_service_for_good(offline: Deployment) -> None:
    """A supervisor does not start it again and again: exit 78 says that a person is needed."""
    text = await offline.join_token("site-a", "agent")
    await offline.registry.database.execute("update join_token set expires_at = clock_timestamp()")
    file = offline.folder / "token"
    file.write_text(text)
    state = NodeState(offline.folder / "site-a")
    state.open()

    with pytest.raises(ConfigError, match="unknown, used or expired") as refused:
        await NodeOptions(state, "kk0", offline.folder, token_file=file).enrolled(networks=())

    assert text not in str(refused.value)


async def test_the_next_certificate_waits_for_signatures_while_the_node_goes_on(
    offline: Deployment, nats: MemoryNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "valid_from", lambda now: (int(now) - 390 * DAY_S, int(now) + 10 * DAY_S))
    node = await offline.begin("site-a")
    pending = offline.folder / "pending.json"
    await offline.cli("trust", "pending", "-o", str(pending))
    for number in (1, 3):
        await offline.cli("trust", "sign", str(pending), "--key", str(offline.key(number)), "--yes",
                          "--hosts", "wiki.example.com")  # fmt: skip
    await offline.cli("trust", "submit", str(pending))
    held = (await asyncio.wait_for(node, 20)).node

    assert isinstance(await _next_certificate(nats), requests.CertificateWaiting)
    assert isinstance(await _next_certificate(nats), requests.CertificateWaiting)

    await offline.until(lambda states: states == {"site-a": "enrolled"})  # not pending: it is a node as before
    said = await offline.cli("trust", "pending", "-o", str(pending))
    assert "hosts wiki.example.com" in said
    await _the_server_proposes_more(offline, pending)
    first = await offline.signed_by(pending, 1)
    assert "site-a: 1 of 2 signatures" in await offline.cli("trust", "submit", str(first))
    assert isinstance(await _next_certificate(nats), requests.CertificateWaiting)
    third = await offline.signed_by(pending, 3)
    assert "site-a: 2 of 2 signatures" in await offline.cli("trust", "submit", str(third))

    answer = await _next_certificate(nats)
    assert isinstance(answer, requests.CertificateRenewed)
    verifier = offline.registry.verifier()
    fresh = check_next(answer.certificate, held, verifier)
    assert (fresh.serial, fresh.hosts, fresh.ports) == (2, ("wiki.example.com",), ())
    assert fresh.not_after > held.not_after


async def _the_server_proposes_more(offline: Deployment, pending: Path) -> None:
    """A host that nobody has signed is not taken over, not with a made-up signature either."""
    grants = msgspec.json.decode(await asyncio.to_thread(pending.read_bytes), type=Grants)
    wider = msgspec.structs.replace(decode(grants.certificates[0].body, Certificate), hosts=("*",))
    feed_key = offline.registry.trust.feed_key
    made_up = signing.sign(signing.CERTIFICATE, offline.registry.trust.deployment, encode(wider), feed_key)
    widened = pending.with_name("widened.json")
    for certificate in (Signed(encode(wider), ()), made_up):
        changed = msgspec.structs.replace(grants, certificates=(certificate,))
        widened.write_bytes(msgspec.json.encode(changed))
        said = await offline.cli("trust", "sign", str(widened), "--key", str(offline.key(1)), "--yes", code=2)
        assert "the server proposes them and nobody has signed them; say --hosts" in said


async def _next_certificate(nats: MemoryNats) -> requests.CertificateRenewed | requests.CertificateWaiting:
    bus = nats.connect(subjects.reply_prefix(NodeId("site-a")))
    request = encode(requests.RenewCertificate())
    reply = await bus.request(subjects.renew(NodeId("site-a")), request, timeout_s=5)
    answer: requests.CertificateRenewed | requests.CertificateWaiting = decode_any(
        reply.data, requests.CertificateRenewed | requests.CertificateWaiting, name="answer"
    )
    return answer
