"""What the keyring accepts of an announcement: form, key, certificate, signature."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PrivateKey, PublicKey
from kakuremichi.wire import signing
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.signing import DeploymentId, Signed, sign
from kakuremichi_keyring.announcement import (
    AnnouncementRefusedError,
    Known,
    OutdatedError,
    check,
    open_certificate,
    read,
)
from support.feedmaker import DEPLOYMENT, TRUST, TRUST_KEY
from support.people import Person

AGENT, GATEWAY = Person("site-a"), Person("gw1", role="gateway", slot=1)
TRUST_SET = sign(signing.TRUST_SET, DEPLOYMENT, encode(TRUST), TRUST_KEY)
NOW = time.time()

# Each gives a shared secret that everybody knows (RFC 7748 section 6.1); with and without the top bit.
LOW_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
]


def known(person: Person) -> Known:
    return open_certificate(DEPLOYMENT, TRUST_SET, person.certificate())


def judge(person: Person, signed: Signed, who: Known | None = None, now: float = NOW) -> None:
    check(signed, read(signed, person.node_id), who or known(person), now)


def changed(person: Person, **fields: Any) -> Signed:
    """The person's announcement with other fields, signed again."""
    said = decode(person.announcement().body, Announcement)
    return sign(signing.ANNOUNCEMENT, DEPLOYMENT, encode(msgspec.structs.replace(said, **fields)), person.identity)


def refused(person: Person, signed: Signed, **more: Any) -> AnnouncementRefusedError:
    with pytest.raises(AnnouncementRefusedError) as error:
        judge(person, signed, **more)
    return error.value


@pytest.mark.parametrize("person", [AGENT, GATEWAY])
def test_a_sound_announcement(person: Person) -> None:
    judge(person, person.announcement())


def test_keys_that_would_give_a_known_secret() -> None:
    assert refused(AGENT, changed(AGENT, public_key=PublicKey(bytes(32)))).code == "zero-key"
    for key in LOW_ORDER:
        assert refused(AGENT, changed(AGENT, public_key=PublicKey(key))).code == "low-order"


def test_the_sealing_key_is_no_wireguard_key() -> None:
    key = known(AGENT).certificate.sealing_key
    assert refused(AGENT, changed(AGENT, public_key=key)).code == "held"


@pytest.mark.parametrize(
    "fields",
    [
        {"public_key": b"short"}, {"public_key": bytes(33)}, {"epoch": 0}, {"epoch": -1}, {"epoch": 2**63},
        {"epoch": "1"}, {"boot_id": b"x"}, {"serial": 0}, {"previous": b""}, {"endpoints": ("192.0.2.1:51820",)},
        {"node_id": "site-b"}, {"node_id": "Site-A"},
    ],
)  # fmt: skip
def test_agents_fields_of_another_form(fields: dict[str, object]) -> None:
    assert refused(AGENT, changed(AGENT, **fields)).code == "malformed"


@pytest.mark.parametrize(
    "endpoints",
    [
        (), ("gw1.example.com:51820",), ("0.0.0.0:51820",), ("192.0.2.1:0",), ("224.0.0.1:1",),
        ("169.254.169.254:1",), ("[fe80::1]:1",),
    ],
)  # fmt: skip
def test_gateways_announce_addresses_that_can_be_reached(endpoints: tuple[str, ...]) -> None:
    assert refused(GATEWAY, changed(GATEWAY, endpoints=endpoints)).code == "malformed"


def test_signatures_of_others_other_purposes_and_other_deployments() -> None:
    body = AGENT.announcement().body
    stranger = SigningKey.generate()
    wrong = [
        Signed(body, ()),
        sign(signing.ANNOUNCEMENT, DEPLOYMENT, body, stranger),
        sign(signing.CERTIFICATE, DEPLOYMENT, body, AGENT.identity),
        sign(signing.ANNOUNCEMENT, DeploymentId(b"x" * 16), body, AGENT.identity),
        Signed(changed(AGENT, epoch=2).body, AGENT.announcement().signatures),
    ]
    for signed in wrong:
        error = refused(AGENT, signed)
        assert isinstance(error, OutdatedError)
        assert error.code == "bad-signature"


def test_a_certificate_needs_the_trust_set_and_a_trust_set_itself() -> None:
    with pytest.raises(AnnouncementRefusedError, match="certificate"):
        open_certificate(DEPLOYMENT, TRUST_SET, AGENT.certificate(signer=SigningKey.generate()))
    other = sign(signing.TRUST_SET, DEPLOYMENT, encode(TRUST), SigningKey.generate())
    with pytest.raises(AnnouncementRefusedError, match="trust-set"):
        open_certificate(DEPLOYMENT, other, AGENT.certificate())
    with pytest.raises(AnnouncementRefusedError):
        open_certificate(DEPLOYMENT, TRUST_SET, TRUST_SET)


def test_another_serial_may_mean_that_ours_is_old_and_an_expired_one_is_refused() -> None:
    assert isinstance(refused(AGENT, changed(AGENT, serial=2)), OutdatedError)
    assert refused(AGENT, AGENT.announcement(), now=NOW + 10**9).code == "unknown-node"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_malformed(body: bytes) -> None:
    with pytest.raises(AnnouncementRefusedError) as error:
        read(Signed(body, ()), NodeId("site-a"))
    assert error.value.code == "malformed"


@given(st.integers(0, 300), st.integers(1, 255))
def test_no_changed_byte_is_accepted(position: int, flip: int) -> None:
    good = AGENT.announcement()
    body = bytearray(good.body)
    body[position % len(body)] ^= flip
    with pytest.raises(AnnouncementRefusedError):
        judge(AGENT, Signed(bytes(body), good.signatures), KNOWN)


KNOWN = known(AGENT)


def test_the_private_key_is_nowhere_in_what_is_sent() -> None:
    private = PrivateKey(AGENT.name.encode().ljust(32, b"+"))
    assert private.reveal() not in encode(AGENT.announcement())
