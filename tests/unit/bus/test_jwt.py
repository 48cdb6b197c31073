"""nkeys and JWTs as texts: what comes back, and that anything else is a sentence."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from kakuremichi.bus import jwt
from kakuremichi.bus.jwt import JwtRefusedError, Signer
from kakuremichi.bus.nkey import Kind, NkeyRefusedError, public_text, read_public, read_seed, seed_text
from kakuremichi.wire.signing import verify_key

KEY = SigningKey(bytes(range(32)))
KINDS: tuple[Kind, ...] = ("operator", "account", "user")
# The example of NATS' own documentation of nkeys.
KNOWN_SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
KNOWN_PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def test_a_known_key_is_read_as_nats_reads_it() -> None:
    assert public_text("user", verify_key(read_seed("user", KNOWN_SEED))) == KNOWN_PUBLIC


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_reads_back_as_its_own_kind_only(kind: Kind) -> None:
    public, seed = public_text(kind, verify_key(KEY)), seed_text(kind, KEY)
    assert (len(public), len(seed)) == (56, 58)
    assert (public[0], seed[:2]) == (kind[0].upper(), f"S{kind[0].upper()}")
    assert read_public(kind, public) == verify_key(KEY)
    assert read_seed(kind, seed) == KEY
    for other in KINDS:
        if other != kind:
            with pytest.raises(NkeyRefusedError):
                read_public(other, public)
            with pytest.raises(NkeyRefusedError):
                read_seed(other, seed)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: base64.b32encode(raw).decode().rstrip("=")))
def test_any_other_text_is_refused_without_being_repeated(text: str) -> None:
    for read in (read_public, read_seed):
        with pytest.raises(NkeyRefusedError) as refusal:
            read("user", text)
        assert len(text) < 12 or text not in str(refusal.value)


@pytest.mark.parametrize("position", range(58))
def test_a_damaged_seed_is_noticed(position: int) -> None:
    seed = seed_text("user", KEY)
    damaged = seed[:position] + ("B" if seed[position] != "B" else "C") + seed[position + 1 :]
    with pytest.raises(NkeyRefusedError):
        read_seed("user", damaged)


def signed(**claims: object) -> str:
    return jwt.sign(Signer("account", KEY), "U" * 56, "n1", {"type": "user", **claims}, expires_at=200, now=100)


def test_a_jwt_says_what_was_signed() -> None:
    claims = jwt.read(signed(tags=["pool:blue"]))
    assert (claims.issuer, claims.name, claims.issued_at, claims.exp) == (
        public_text("account", verify_key(KEY)), "n1", 100, 200,
    )  # fmt: skip
    assert claims.nats == {"type": "user", "tags": ["pool:blue"]}


def test_what_was_changed_or_signed_by_another_is_refused() -> None:
    text = signed()
    header, body, signature = text.split(".")
    claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    other = jwt.sign(Signer("account", SigningKey.generate()), "U" * 56, "n1", {})
    claims["nats"]["tags"] = ["pool:red"]
    altered = base64.urlsafe_b64encode(msgspec.json.encode(claims)).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"none"}').decode().rstrip("=")
    for bad in (
        f"{header}.{altered}.{signature}",
        f"{header}.{body}.{other.split('.')[2]}",
        f"{header}.{body}.",
        f"{header}.{body}",
        f"{none}.{body}.{signature}",
        text + "AAAA",
        text[:-4],
    ):
        with pytest.raises(JwtRefusedError):
            jwt.read(bad)


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_jwt_or_a_sentence(text: str) -> None:
    with pytest.raises(JwtRefusedError):
        jwt.read(text)


@given(st.lists(st.binary(max_size=80), min_size=3, max_size=3))
def test_any_bytes_in_its_parts_are_a_sentence(parts: list[bytes]) -> None:
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    with pytest.raises(JwtRefusedError):
        jwt.read(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_json_in_its_middle_is_a_sentence(value: object) -> None:
    header, _, signature = signed().split(".")
    body = base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")
    with pytest.raises(JwtRefusedError):
        jwt.read(f"{header}.{body}.{signature}")


def test_a_signer_hides_its_key() -> None:
    assert "Signer(kind='account')" in repr(Signer("account", KEY))
