"""What has harmed others, as lists: keys, signatures, endpoints, join tokens and JWTs that have to be refused."""

import base64
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.nkey import public_text
from kakuremichi.model.addresses import AddressRefusedError, parse_endpoint
from kakuremichi.model.keys import P25519, KeyRefusedError, VerifyKey, check_public_key, key_from_text
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.enrolment import EnrolmentRequest, JoinTokenRefusedError, parse_join_token, proof_fits
from kakuremichi.wire.signing import Signature, Signed, verify, verify_key
from security.fuzz_targets import ACCOUNT, JWT, TOKEN
from support.forger import CERTIFICATES, DEPLOYMENT, SITE_A, TRUST

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


ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group, RFC 8032 section 5.1


def test_a_signature_has_one_form_only() -> None:
    """Who blocks by the bytes of a signature is beaten by its other forms, S + n·L; here there are none."""
    good = CERTIFICATES[SITE_A].signatures
    keys = {signature.key for signature in good}
    body = CERTIFICATES[SITE_A].body
    assert verify(signing.CERTIFICATE, DEPLOYMENT, Signed(body, good), keys, threshold=2) == body
    first, scalar = good[0], int.from_bytes(good[0].value[32:], "little")
    others = [scalar + times * ORDER for times in range(1, 16) if scalar + times * ORDER < 2**256]
    assert others
    values = [first.value[:32] + number.to_bytes(32, "little") for number in others]
    for value in (*values, bytes(64), b"\xff" * 64, first.value[32:] + first.value[:32]):
        with pytest.raises(signing.SignatureRefusedError):
            verify(signing.CERTIFICATE, DEPLOYMENT, Signed(body, (Signature(first.key, value),)), keys)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_not_read(length: int) -> None:
    raw = encode([b"body", [[b"k" * 32, bytes(length)]]])
    with pytest.raises(WireError):
        decode(raw, Signed)


def test_one_key_that_signs_twice_is_one_key() -> None:
    signed = CERTIFICATES[SITE_A]
    twice = Signed(signed.body, (signed.signatures[0], signed.signatures[0]))
    with pytest.raises(signing.SignatureRefusedError, match="1 valid signatures"):
        verify(signing.CERTIFICATE, DEPLOYMENT, twice, frozenset(TRUST.keys), threshold=2)


GOOD_KEY = base64.b64encode(SITE_A.key(3)).decode()
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
    ("31 bytes in base64", lambda: key_from_text(base64.b64encode(b"k" * 31).decode())),
    ("33 bytes in base64", lambda: key_from_text(base64.b64encode(b"k" * 33).decode())),
    ("a blank inside", lambda: key_from_text(GOOD_KEY[:20] + " " + GOOD_KEY[20:])),
    ("more padding", lambda: key_from_text(GOOD_KEY + "=")),
    ("zero, in base64", lambda: key_from_text("A" * 43 + "=")),
]


@pytest.mark.parametrize(("what", "read"), BAD_KEYS, ids=[what for what, _ in BAD_KEYS])
def test_bad_keys_are_refused(what: str, read: Callable[[], object]) -> None:
    with pytest.raises(KeyRefusedError):
        read()


@given(st.binary(max_size=48))
def test_a_refused_key_is_never_repeated(raw: bytes) -> None:
    """It may be a private one that was pasted in the wrong place: nothing tells the two apart."""
    text = base64.b64encode(raw).decode()
    for read in (partial(check_public_key, raw), partial(key_from_text, text), partial(key_from_text, text + "\n")):
        said = ""
        try:
            read()
        except KeyRefusedError as error:
            said = str(error)
        assert len(raw) < 6 or (text not in said and raw.hex() not in said and repr(raw) not in said)


BAD_ENDPOINTS = [
    "", "gw1.example.com:51820", "localhost:51820", "0.0.0.0:51820", "[::]:51820", "224.0.0.1:51820", "[ff02::1]:51820",
    "255.255.255.255:51820", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:+1", "192.0.2.1:",
    "192.0.2.1:\uff11", "192.0.2.1 :1", " 192.0.2.1:1", "192.0.2.1:1\n", "192.0.2.01:1", "0x7f.0.0.1:1", "3221225985:1",
    "192.0.2.1/24:1", "[192.0.2.1:1", "[2001:db8::1]51820", "[2001:db8::1]:", "[fe80::1%eth0]:51820",
    "[::ffff:192.0.2.1]:51820", "[::ffff:169.254.169.254]:80", "[::ffff:127.0.0.1]:80", "[::ffff:0.0.0.0]:80",
    "192.0.2.1:1:1", "192.0.2.1:1;", "192.0.2.1:1 2",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ENDPOINTS)
def test_bad_endpoints_are_refused(text: str) -> None:
    with pytest.raises(AddressRefusedError):
        parse_endpoint(text)


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


def jwt_of(header: object, claims: dict[str, object], key: SigningKey = ACCOUNT.key) -> str:
    """A text of three parts with a good signature by `key`, whatever it says."""
    parts = [base64.urlsafe_b64encode(msgspec.json.encode(part)).decode().rstrip("=") for part in (header, claims)]
    text = ".".join(parts)
    return f"{text}.{base64.urlsafe_b64encode(key.sign(text.encode()).signature).decode().rstrip('=')}"


HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
CLAIMS: dict[str, object] = {"iss": ACCOUNT.public, "sub": "U", "name": "n", "iat": 1, "nats": {}}
USER_KEY = SITE_A.identity
BAD_JWTS = {
    "no signature": jwt_of(HEADER, CLAIMS).rpartition(".")[0] + ".",
    "alg none": jwt_of({"typ": "JWT", "alg": "none"}, CLAIMS).rpartition(".")[0] + ".",
    "alg none, signed": jwt_of({"typ": "JWT", "alg": "none"}, CLAIMS),
    "alg HS256 by the public key": jwt_of({"typ": "JWT", "alg": "HS256"}, CLAIMS),
    "alg of the first version": jwt_of({"typ": "jwt", "alg": "ed25519"}, CLAIMS),
    "more in the header": jwt_of({**HEADER, "jwk": {"kty": "OKP"}}, CLAIMS),
    "no header": jwt_of(None, CLAIMS),
    "another signer": jwt_of(HEADER, CLAIMS, USER_KEY),
    "an issuer of no kind": jwt_of(HEADER, {**CLAIMS, "iss": "N" + ACCOUNT.public[1:]}),
    "an issuer of another kind": jwt_of(HEADER, {**CLAIMS, "iss": "O" + ACCOUNT.public[1:]}),
    "no issuer": jwt_of(HEADER, {key: value for key, value in CLAIMS.items() if key != "iss"}),
    "an issuer that is no text": jwt_of(HEADER, {**CLAIMS, "iss": 7}),
    "an expiry that is no number": jwt_of(HEADER, {**CLAIMS, "exp": "never"}),
    "four parts": JWT + ".e30",
    "two at once": JWT + JWT,
    "a line end": JWT + "\n",
    "padding inside": JWT.replace(".", "=.", 1),
    "too long": JWT + "A" * jwt.MAX_CHARS,
}


@pytest.mark.parametrize("what", BAD_JWTS)
def test_bad_jwts_are_refused(what: str) -> None:
    assert jwt.read(jwt_of(HEADER, CLAIMS)).issuer == ACCOUNT.public
    with pytest.raises(jwt.JwtRefusedError):
        jwt.read(BAD_JWTS[what])


def test_neither_a_users_key_nor_one_of_small_order_signs_as_an_account() -> None:
    """Key confusion: an nkey names its kind, and its checksum holds the two together."""
    user = public_text("user", verify_key(USER_KEY))
    small = VerifyKey(bytes.fromhex(SMALL_ORDER[0]))
    signed = jwt_of(HEADER, {**CLAIMS, "iss": public_text("account", small)}).rpartition(".")[0]
    signatures = [base64.urlsafe_b64encode(value).decode().rstrip("=") for value in every_signature(small)]
    for text in (
        jwt_of(HEADER, {**CLAIMS, "iss": "A" + user[1:]}, USER_KEY),
        *(f"{signed}.{signature}" for signature in signatures),
    ):
        with pytest.raises(jwt.JwtRefusedError):
            jwt.read(text)
