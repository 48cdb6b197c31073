"""The key that a node begins with: that of the running interface, if it is the one that was announced last."""

from pathlib import Path

import pytest

from kakuremichi.dataplane.wireguard.memory import MemoryDevice
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.node import key
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.wire.codec import encode
from kakuremichi.wire.enrolment import BusAccess, EnrolmentAnswer
from kakuremichi.wire.signing import TRUST_SET, digest_of, sign
from support.feedmaker import DEPLOYMENT, TRUST, TRUST_KEY, feed_key_certificate
from support.people import Person


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    made = NodeState(tmp_path / "state")
    made.open()
    return made


@pytest.fixture
def enrolment() -> Enrolment:
    answer = EnrolmentAnswer(
        deployment=DEPLOYMENT,
        certificate=Person("site-a").certificate(),
        trust=sign(TRUST_SET, DEPLOYMENT, encode(TRUST), TRUST_KEY),
        feed_key=feed_key_certificate(),
        endpoints=(),
        bus=BusAccess(url="nats://127.0.0.1:4222", jwt="the-jwt"),
    )
    return Enrolment(answer)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MemoryDevice:
    async def adopt(device: MemoryDevice, _alias: str, expected: PublicKey) -> bool:
        return await device.has_key(expected)

    monkeypatch.setattr(key, "adopt", adopt)
    return MemoryDevice()


async def hold(device: MemoryDevice, state: NodeState, enrolment: Enrolment) -> bool:
    return await key.hold_key(device, "alias", state, enrolment, listen_port=0)


async def test_a_restarted_process_goes_on_with_the_running_key(
    device: MemoryDevice, state: NodeState, enrolment: Enrolment
) -> None:
    assert not await hold(device, state, enrolment)
    first = state.announcement()

    assert await hold(device, state, enrolment)
    assert state.announcement() == first


async def test_a_process_that_died_in_a_rotation_makes_another_key(
    device: MemoryDevice, state: NodeState, enrolment: Enrolment
) -> None:
    """Whether its gateways have moved to the key that was announced is unknown, and nobody holds its private half."""
    await hold(device, state, enrolment)
    served = state.announcement()
    pending = make_announcement(
        enrolment, state.identity(), served, PrivateKey.generate().public(), boot_id=bytes(16), endpoints=()
    )
    state.save_announcement(pending)

    assert not await hold(device, state, enrolment)

    newest = state.announcement()
    assert newest is not None
    assert served is not None
    assert await device.has_key(newest[1].public_key)
    assert not await device.has_key(served[1].public_key)
    assert newest[1].previous == digest_of(pending)
    assert state.before() == (pending, served[0])
