"""Whatever bytes come: a refusal that is a sentence, and never another exception.

Everything here is read before anybody is known: announcements and items from the bus, join tokens and JWTs from
strangers, keys from all of them. The mutations begin at genuine bytes, so that the checks behind the first are met.
"""

import base64
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.nkey import NkeyRefusedError, public_text, read_seed
from kakuremichi.model.keys import P25519, KeyRefusedError, VerifyKey, check_public_key, key_from_text
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.wire import commands, requests, signing
from kakuremichi.wire.codec import WireError, decode, decode_any, encode
from kakuremichi.wire.direct import Exchange
from kakuremichi.wire.enrolment import (
    EnrolmentRequest,
    JoinToken,
    JoinTokenRefusedError,
    join_token_text,
    parse_join_token,
    proof_fits,
)
from kakuremichi.wire.identity import Announcement, Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.records import FeedItem, Head, decode_record
from kakuremichi.wire.signing import Signature, Signed, verify
from support.forger import ANNOUNCEMENTS, CERTIFICATES, DEPLOYMENT, FEED_KEY_CERTIFICATE, SITE_A, TRUST

MANY = settings(
    max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
pytestmark = pytest.mark.timeout(300)

CERTIFICATE = encode(CERTIFICATES[SITE_A])
ANNOUNCEMENT = encode(ANNOUNCEMENTS[SITE_A, 3])
TOKEN = join_token_text(JoinToken(url="https://203.0.113.100:8080", secret=b"s" * 32, ca=b"c" * 32, trust=b"t" * 32))
JWT = jwt.sign(
    jwt.Signer("account", SigningKey(b"a" * 32)), public_text("user", VerifyKey(bytes(SITE_A.identity.verify_key))),
    "site-a", {"type": "user", "version": 2, "tags": ["pool:main"]}, expires_at=2_000_000_000,
)  # fmt: skip


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed with a few bytes changed, removed, repeated or put in; or no relative of it at all."""
    place = st.integers(0, len(seed))
    flip = st.tuples(place, st.integers(0, 255)).map(lambda at: seed[: at[0]] + bytes([at[1]]) + seed[at[0] + 1 :])
    cut = st.tuples(place, place).map(lambda at: seed[: min(at)] + seed[max(at) :])
    put = st.tuples(place, st.binary(max_size=12)).map(lambda at: seed[: at[0]] + at[1] + seed[at[0] :])
    return st.one_of(flip, flip, cut, put, st.binary(max_size=200))


def refusal(kind: type[Exception], read: Callable[[], object]) -> str:
    """The sentence of the one error that may come; "" if there is none."""
    try:
        read()
    except kind as error:
        return str(error) or pytest.fail(f"{kind.__name__} without a sentence")
    return ""


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


KINDS = (
    Signed, Certificate, Announcement, TrustSet, FeedKeyCertificate, FeedItem, Head, Exchange, JoinToken,
    requests.Announce, requests.Report, requests.SnapshotRequest, requests.SnapshotPage,
)  # fmt: skip


@MANY
@given(st.one_of(mutated(CERTIFICATE), mutated(ANNOUNCEMENT), mutated(CERTIFICATES[SITE_A].body)))
def test_the_codec_refuses_in_one_way(data: bytes) -> None:
    for kind in KINDS:
        refusal(WireError, partial(decode, data, kind))
    refusal(WireError, lambda: decode_record(data))
    refusal(WireError, lambda: decode_any(data, commands.AnyCommand, name="command"))


@MANY
@given(mutated(CERTIFICATE), mutated(ANNOUNCEMENT))
def test_a_changed_certificate_or_announcement_is_refused_or_says_what_its_owner_signed(
    certificate: bytes, announcement: bytes
) -> None:
    verifier = Verifier(DEPLOYMENT, TRUST)
    for cert, said in ((certificate, ANNOUNCEMENT), (CERTIFICATE, announcement)):
        try:
            opened, spoken = verifier.peer(decode(cert, Signed), decode(said, Signed), "agent", new=True)
        except (WireError, NotTrustedError):
            continue
        assert opened == SITE_A.certificate_body()
        assert spoken == SITE_A.announcement_body(3)


@MANY
@given(mutated(encode(FEED_KEY_CERTIFICATE)))
def test_no_other_feed_key_is_learned(data: bytes) -> None:
    verifier = Verifier(DEPLOYMENT, TRUST)
    try:
        key = verifier.learn_feed_key(decode(data, Signed))
    except (WireError, NotTrustedError):
        assert not verifier.feed_keys
    else:
        assert key == decode(FEED_KEY_CERTIFICATE.body, FeedKeyCertificate).key


@MANY
@given(
    st.one_of(
        mutated(TOKEN.encode()).map(lambda data: data.decode("latin-1")), st.text(max_size=80).map("kk1.".__add__)
    )
)
def test_a_join_token_is_refused_without_being_repeated(text: str) -> None:
    said = refusal(JoinTokenRefusedError, lambda: parse_join_token(text))
    assert len(text) < 12 or text not in said
    if not said:
        assert "ssss" not in repr(parse_join_token(text))


@MANY
@given(mutated(JWT.encode()))
def test_a_jwt_is_refused_in_one_way_and_no_changed_one_has_a_good_signature(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        claims = jwt.read(text)
    except jwt.JwtRefusedError:
        return
    assert claims == jwt.read(JWT) or text != JWT


@MANY
@given(st.text(max_size=70))
def test_an_nkey_seed_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(NkeyRefusedError):
        read_seed("user", text)


@MANY
@given(st.text(max_size=60))
def test_a_public_key_in_base64_is_refused_in_one_way(text: str) -> None:
    refusal(KeyRefusedError, lambda: key_from_text(text))


@pytest.mark.parametrize("depth", [1, 100, 1000, 10_000, 65_000])
def test_deep_nesting_is_a_refusal_and_no_overflow(depth: int) -> None:
    for kind in KINDS:
        with pytest.raises(WireError):
            decode(nested(depth), kind)
    if depth > 1:
        with pytest.raises(WireError):
            decode_record(b"\x92\xa8route.v1" + nested(depth))


def test_a_message_beyond_the_limit_is_not_even_read() -> None:
    with pytest.raises(WireError, match="at most 65536"):
        decode(b"\x92" * 65537, Signed)


# Points of order 1, 2, 4 and 8 on Curve25519 and its twist, with their non-canonical encodings and the top bit both
# ways: "May the Fourth" of https://cr.yp.to/ecdh.html#validate, and the same values beyond p.
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P25519 - 1,
    P25519,
    P25519 + 1,
]
ENCODINGS = [number.to_bytes(32, "little") for number in LOW_ORDER]
FOURTEEN = [*ENCODINGS, *(bytes([*raw[:31], raw[31] | 0x80]) for raw in ENCODINGS)]


@pytest.mark.parametrize("raw", FOURTEEN, ids=lambda raw: raw.hex()[:8] + raw.hex()[-2:])
def test_the_fourteen_low_order_keys_of_x25519_are_refused(raw: bytes) -> None:
    assert len(set(FOURTEEN)) == 14
    with pytest.raises(KeyRefusedError):
        check_public_key(raw)


@given(st.integers(P25519, 2**256 - 1))
def test_a_key_that_is_no_canonical_number_is_refused(number: int) -> None:
    with pytest.raises(KeyRefusedError):
        check_public_key(number.to_bytes(32, "little"))


# The eight points of small order of Ed25519 and their other encodings (RFC 8032 section 5.1.3, y and y + p).
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def every_signature(key: bytes) -> list[bytes]:
    """Signatures that fit any message under a key of small order in libraries that accept such keys."""
    zero = bytes(32)
    return [bytes.fromhex(point) + zero for point in SMALL_ORDER] + [key + zero]


@pytest.mark.parametrize("text", SMALL_ORDER, ids=lambda text: text[:6] + text[-2:])
def test_no_signature_counts_under_a_small_order_key_of_ed25519(text: str) -> None:
    key = VerifyKey(bytes.fromhex(text))
    body = encode(SITE_A.certificate_body())
    for value in every_signature(key):
        with pytest.raises(signing.SignatureRefusedError):
            verify(signing.CERTIFICATE, DEPLOYMENT, Signed(body, (Signature(key, value),)), {key})
        request = EnrolmentRequest(
            secret=b"s" * 32, identity_key=key, sealing_key=SITE_A.certificate_body().sealing_key, proof=value
        )
        assert not proof_fits(request)


BAD_KEYS: list[tuple[str, Callable[[], object]]] = [
    ("too short", lambda: check_public_key(b"k" * 31)),
    ("too long", lambda: check_public_key(b"k" * 33)),
    ("empty", lambda: check_public_key(b"")),
    ("white space", lambda: key_from_text(" " + base64.b64encode(b"k" * 32).decode())),
    ("a line end", lambda: key_from_text(base64.b64encode(b"k" * 32).decode() + "\n")),
    ("url-safe", lambda: key_from_text(base64.urlsafe_b64encode(b"\xff" * 31 + b"\x0f").decode())),
    ("no padding", lambda: key_from_text(base64.b64encode(b"k" * 32).decode().rstrip("="))),
    ("other bits behind the end", lambda: key_from_text(base64.b64encode(b"k" * 32).decode()[:-2] + "t=")),
    ("a hexadecimal form", lambda: key_from_text((b"k" * 32).hex())),
    ("full-width letters", lambda: key_from_text("\uff21" * 43 + "=")),
    ("a NUL", lambda: key_from_text("\0" * 44)),
]


@pytest.mark.parametrize(("what", "read"), BAD_KEYS, ids=[what for what, _ in BAD_KEYS])
def test_bad_keys_are_refused(what: str, read: Callable[[], object]) -> None:
    with pytest.raises(KeyRefusedError):
        read()


BAD_TOKENS = [
    "", "kk1.", "kk1", "kk2." + TOKEN[4:], TOKEN[4:], TOKEN.upper(), TOKEN + "A", TOKEN[:-1], TOKEN + "\n", " " + TOKEN,
    TOKEN.replace("kk1.", "kk1. "), "kk1." + "A" * 2000, "kk1.=", "kk1.\0", "kk1.\uff41", TOKEN + TOKEN,
    "kk1." + base64.urlsafe_b64encode(encode(["u", b"s" * 31, b"", b"t" * 32])).decode(),
    "kk1." + base64.urlsafe_b64encode(encode(["u", b"s" * 32, b"x", b"t" * 32])).decode(),
    "kk1." + base64.urlsafe_b64encode(encode(["", b"s" * 32, b"", b"t" * 32])).decode(),
    "kk1." + base64.urlsafe_b64encode(encode(["u", b"s" * 32, b"", b"t" * 32, "more"])).decode(),
    "kk1." + base64.urlsafe_b64encode(msgspec.json.encode({"url": "u"})).decode(),
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_TOKENS)
def test_bad_join_tokens_are_refused(text: str) -> None:
    with pytest.raises(JoinTokenRefusedError):
        parse_join_token(text)
