"""What is fed to the fuzzer: each reader of foreign bytes, what it may say, and what has to be true of what it accepts.

A target takes any bytes and tells whether they were accepted. It raises what its reader raises beyond the errors that
are agreed, and AssertionError where something was accepted that nobody signed. Those whose name ends in `-signed`
sign the bytes first, as a holder of the key could: only so are the checks behind the signature reached.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Raw
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.nkey import NkeyRefusedError, public_text, read_public, read_seed, seed_text
from kakuremichi.model.ids import LogId
from kakuremichi.model.keys import KeyRefusedError, VerifyKey, check_public_key, key_from_text, key_text
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.wire import commands, requests, signing
from kakuremichi.wire.codec import WireError, decode, decode_any, encode
from kakuremichi.wire.counters import AskCounters, CountersTold
from kakuremichi.wire.direct import Exchange
from kakuremichi.wire.enrolment import (
    JoinToken,
    JoinTokenRefusedError,
    join_token_text,
    parse_join_token,
    read_answer,
)
from kakuremichi.wire.identity import Announcement, Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.records import FeedItem, Gone, Head, decode_record
from kakuremichi.wire.signing import Signed, sign
from kakuremichi.wire.spans import SpanBatch
from support.forger import (
    ANNOUNCEMENTS,
    CERTIFICATES,
    DEPLOYMENT,
    FEED_KEY,
    FEED_KEY_CERTIFICATE,
    SITE_A,
    TRUST,
    TRUST_KEYS,
)

CERTIFICATE = encode(CERTIFICATES[SITE_A])
ANNOUNCEMENT = encode(ANNOUNCEMENTS[SITE_A, 3])
EXCHANGE = encode(Exchange(certificate=CERTIFICATES[SITE_A], announcement=ANNOUNCEMENTS[SITE_A, 3]))
JOIN_TOKEN = JoinToken(url="https://203.0.113.100:8080", secret=b"s" * 32, ca=b"c" * 32, trust=b"t" * 32)
TOKEN = join_token_text(JOIN_TOKEN)
ACCOUNT = jwt.Signer("account", SigningKey(b"a" * 32))
JWT = jwt.sign(
    ACCOUNT, public_text("user", VerifyKey(bytes(SITE_A.identity.verify_key))),
    "site-a", {"type": "user", "version": 2, "tags": ["pool:main"]}, expires_at=2_000_000_000,
)  # fmt: skip
_CLAIMS = base64.urlsafe_b64decode(JWT.split(".")[1] + "==")

KINDS = (
    Signed, Certificate, Announcement, TrustSet, FeedKeyCertificate, FeedItem, Head, Exchange, JoinToken,
    requests.Announce, requests.Report, requests.TimedReport, requests.SnapshotRequest, requests.SnapshotPage,
    SpanBatch, AskCounters, CountersTold,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """`take` tells whether it accepted the bytes; of `seeds`, which are genuine, it accepts every one."""

    take: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]


def codec(data: bytes) -> bool:
    """Every kind of message; what is read reads back as the same once it is written."""
    accepted = False
    for kind in KINDS:
        try:
            message = decode(data, kind)
        except WireError:
            continue
        written = encode(message)  # compared as bytes: a number that is none equals nothing, not itself either
        assert encode(decode(written, kind)) == written
        accepted = True
    for read in (lambda: decode_record(data), lambda: decode_any(data, commands.AnyCommand, name="command")):
        try:
            read()
        except WireError:
            continue
        accepted = True
    return accepted


def peer(data: bytes) -> bool:
    """A certificate and an announcement as a stranger posts them: only what their owners signed is believed."""
    try:
        exchange = decode(data, Exchange)
        opened, said = Verifier(DEPLOYMENT, TRUST).peer(exchange.certificate, exchange.announcement, "agent", new=True)
    except (WireError, NotTrustedError):
        return False
    assert opened == SITE_A.certificate_body()
    assert said == SITE_A.announcement_body(3)
    return True


def certificate_signed(data: bytes) -> bool:
    """Any bytes under the signatures of the trust keys."""
    signed = sign(signing.CERTIFICATE, DEPLOYMENT, data, *TRUST_KEYS[1:])
    try:
        opened = Verifier(DEPLOYMENT, TRUST).certificate(signed, new=True)
    except (WireError, NotTrustedError):
        return False
    assert decode(data, Certificate) == opened
    assert 0 <= opened.slot <= 99
    assert opened.serial >= 1
    return True


def announcement_signed(data: bytes) -> bool:
    """Any bytes under the signature of the node: never a key that WireGuard must not be given."""
    signed = sign(signing.ANNOUNCEMENT, DEPLOYMENT, data, SITE_A.identity)
    try:
        _, said = Verifier(DEPLOYMENT, TRUST).peer(CERTIFICATES[SITE_A], signed, "agent", new=True)
    except (WireError, NotTrustedError):
        return False
    check_public_key(said.public_key)
    assert (said.node_id, said.serial) == (SITE_A.name, SITE_A.serial)
    assert 1 <= said.epoch < 2**63
    return True


def feed_item_signed(data: bytes) -> bool:
    """Any bytes under the feed key, with the record inside."""
    verifier = Verifier(DEPLOYMENT, TRUST)
    verifier.learn_feed_key(FEED_KEY_CERTIFICATE)
    try:
        opened = verifier.signed_item(sign(signing.FEED_ITEM, DEPLOYMENT, data, FEED_KEY))
        decode_record(opened.item.record)
    except (WireError, NotTrustedError):
        return False
    return True


def a_jwt(data: bytes) -> bool:
    """Any text as a JWT: only the claims that the account signed are read."""
    try:
        claims = jwt.read(data.decode("latin-1"))
    except jwt.JwtRefusedError:
        return False
    assert claims == jwt.read(JWT)
    return True


def jwt_signed(data: bytes) -> bool:
    """Any bytes as the claims of a JWT whose signature is good."""
    signed = f"{JWT.split('.')[0]}.{_base64(data)}"
    text = f"{signed}.{_base64(ACCOUNT.key.sign(signed.encode()).signature)}"
    try:
        claims = jwt.read(text)
    except jwt.JwtRefusedError:
        return False
    assert claims.issuer == ACCOUNT.public
    return True


def join_token(data: bytes) -> bool:
    """What a person pastes, and the answer that has to fit to it."""
    text = data.decode("latin-1")
    try:
        read_answer(JOIN_TOKEN, data)
    except (WireError, JoinTokenRefusedError):
        pass
    else:
        raise AssertionError("an answer was taken whose trust set is not the one that the token names")
    try:
        token = parse_join_token(text)
    except JoinTokenRefusedError as error:
        if len(text) >= 12 and text in str(error):
            raise AssertionError("the refusal repeats the token") from error
        return False
    assert parse_join_token(join_token_text(token)) == token
    return True


def keys_as_text(data: bytes) -> bool:
    """Public keys in base64, nkeys and their seeds in base32."""
    text, accepted = data.decode("latin-1"), False
    try:
        assert key_text(key_from_text(text)) == text
        accepted = True
    except KeyRefusedError:
        pass
    for read in (read_public, read_seed):
        try:
            read("account", text)
            accepted = True
        except NkeyRefusedError:
            continue
    return accepted


def planted(data: bytes) -> bool:
    """A defect of our own, behind four bytes that nobody guesses at once: shows that the fuzzer would find one."""
    if data[:1] == b"k" and data[1:2] == b"k" and data[2:3] == b"1" and data[3:4] == b".":
        raise IndexError("planted")
    return True


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


_RECORD = encode(Gone(kind="route", key="wiki"))
_ITEM = encode(
    FeedItem(log_id=LogId("log-1"), feed="feed.pool.main", feed_seq=1, prev_hash=bytes(32), record=Raw(_RECORD))
)

TARGETS = {
    "codec": Target(codec, (CERTIFICATE, CERTIFICATES[SITE_A].body, ANNOUNCEMENTS[SITE_A, 3].body, _ITEM, _RECORD)),
    "peer": Target(peer, (EXCHANGE,)),
    "certificate-signed": Target(certificate_signed, (CERTIFICATES[SITE_A].body,)),
    "announcement-signed": Target(announcement_signed, (ANNOUNCEMENTS[SITE_A, 3].body,)),
    "feed-item-signed": Target(feed_item_signed, (_ITEM,)),
    "jwt": Target(a_jwt, (JWT.encode(),)),
    "jwt-signed": Target(jwt_signed, (_CLAIMS,)),
    "join-token": Target(join_token, (TOKEN.encode(),)),
    "keys-as-text": Target(
        keys_as_text,
        (
            key_text(SITE_A.key(3)).encode(),
            ACCOUNT.public.encode(),
            seed_text("account", ACCOUNT.key).encode(),
        ),
    ),
    "planted": Target(planted, (b"kk",)),
}
