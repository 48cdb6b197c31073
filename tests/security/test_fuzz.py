"""Whatever bytes come: a refusal that is a sentence, and never another exception.

Everything here is read before anybody is known: announcements and items from the bus, join tokens and JWTs from
strangers, keys from all of them. atheris looks for new branches, hypothesis begins at genuine bytes; what is known to
have harmed others is in `test_fuzz_lists`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kakuremichi.bus import jwt
from kakuremichi.bus.nkey import NkeyRefusedError, read_seed
from kakuremichi.model.keys import KeyRefusedError, key_from_text
from kakuremichi.reconcile.verify import NotTrustedError, Verifier
from kakuremichi.wire import commands
from kakuremichi.wire.codec import WireError, decode, decode_any, encode
from kakuremichi.wire.enrolment import JoinTokenRefusedError, parse_join_token
from kakuremichi.wire.identity import FeedKeyCertificate
from kakuremichi.wire.records import decode_record
from kakuremichi.wire.signing import Signed
from security.fuzz_targets import ANNOUNCEMENT, CERTIFICATE, JWT, KINDS, TARGETS, TOKEN
from support.forger import CERTIFICATES, DEPLOYMENT, FEED_KEY_CERTIFICATE, SITE_A, TRUST

MANY = settings(
    max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
pytestmark = pytest.mark.timeout(120)

RUNS, AT_MOST_S = 50_000, 10


def fuzz(target: str, folder: Path, *, runs: int = RUNS) -> "subprocess.CompletedProcess[str]":
    """The fuzzer on one target, from its seeds: it ends after so many runs or seconds, and at the first find."""
    bounds = (f"-runs={runs}", f"-max_total_time={AT_MOST_S}", "-timeout=30", "-max_len=4096")
    options = ("-seed=1", *bounds, "-print_final_stats=1", f"-artifact_prefix={folder}/")
    path = os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [sys.executable, "-m", "security.fuzz_run", target, str(folder / "corpus"), *options],
        capture_output=True, text=True, timeout=90, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def executed(fuzzer: "subprocess.CompletedProcess[str]") -> int:
    found = re.search(r"number_of_executed_units: (\d+)", fuzzer.stderr)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "planted"])
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    accepted = [TARGETS[target].take(seed) for seed in TARGETS[target].seeds]
    assert all(accepted), "a genuine seed is refused: the fuzzer would not get past the first check"

    fuzzer = fuzz(target, tmp_path)

    assert fuzzer.returncode == 0, fuzzer.stderr[-4000:]
    assert executed(fuzzer) > len(accepted), fuzzer.stderr[-4000:]


def test_the_fuzzer_would_find_a_defect(tmp_path: Path) -> None:
    """It lies behind four comparisons: without counting branches nobody gets there in so many runs."""
    fuzzer = fuzz("planted", tmp_path, runs=2_000_000)
    assert fuzzer.returncode != 0
    assert "IndexError: planted" in fuzzer.stdout + fuzzer.stderr, fuzzer.stderr[-4000:]


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
    try:
        claims = jwt.read(data.decode("latin-1"))
    except jwt.JwtRefusedError:
        return
    assert claims == jwt.read(JWT)  # the last character of its base64 has bits that mean nothing


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
