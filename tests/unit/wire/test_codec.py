"""Whatever the bytes are, decoding gives a value or a sentence, and nothing else."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.wire import commands, facts, identity, key_requests, records, requests
from kakuremichi.wire.codec import MAX_MESSAGE_BYTES, WireError, decode, decode_any, encode
from kakuremichi.wire.records import Gone, UnknownRecord, decode_record, key_of
from kakuremichi.wire.signing import Signed

KINDS: dict[str, Any] = {
    "command": commands.AnyCommand,
    "result": commands.AnyResult,
    "key request": key_requests.AnyKeyRequest,
    "announce": requests.Announce,
    "report": requests.Report,
    "snapshot request": requests.SnapshotRequest,
    "snapshot page": requests.SnapshotPage | requests.SnapshotRefused,
    "signed": Signed,
    "certificate": identity.Certificate,
    "announcement": identity.Announcement,
    "trust set": identity.TrustSet,
    "feed key": identity.FeedKeyCertificate,
    "feed item": records.FeedItem,
    "head": records.Head,
}

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=40)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=9), inner), max_leaves=20
)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.binary(max_size=400) | values.map(msgspec.msgpack.encode))
def test_any_bytes_are_a_value_or_a_wire_error(name: str, data: bytes) -> None:
    with suppress(WireError):
        decode_any(data, KINDS[name], name=name)


@given(st.binary(max_size=400) | values.map(msgspec.msgpack.encode))
def test_any_record_is_a_value_or_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        key_of(decode_record(data))


@pytest.mark.parametrize(
    "data", [b"\x91" * 60000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_deep_and_boastful_bytes_cost_nothing(data: bytes) -> None:
    for name, kind in KINDS.items():
        with pytest.raises(WireError):
            decode_any(data, kind, name=name)


def test_too_much_is_not_even_looked_at() -> None:
    with pytest.raises(WireError, match="65537 bytes"):
        decode(bytes(MAX_MESSAGE_BYTES + 1), Signed)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(WireError):
        decode(encode(requests.KeyAccepted(epoch=1)) + b"\0", requests.KeyAccepted)


def test_what_nodes_and_clients_send_is_read_strictly() -> None:
    more = [*msgspec.msgpack.decode(encode(requests.SnapshotRequest(feed="f"))), "more"]
    with pytest.raises(WireError):
        decode(encode(more), requests.SnapshotRequest)
    with pytest.raises(WireError, match="unknown field"):
        decode_any(encode({"type": "list-services.v1", "actor": "a", "x": 1}), commands.AnyCommand, name="command")


def test_what_the_control_plane_sends_may_grow() -> None:
    more = [*msgspec.msgpack.decode(encode(Gone(kind="route", key="wiki"))), "of a later release"]
    assert decode_record(encode(more)) == Gone(kind="route", key="wiki")
    assert decode_record(encode(["route.v9", "wiki", 1, 2])) == UnknownRecord("route.v9", "wiki")
    assert key_of(UnknownRecord("route.v9", "wiki")) == ("route", "wiki")


@given(st.builds(Gone, kind=st.text(max_size=20), key=st.text(max_size=200)))
def test_records_come_back_as_they_were(record: Gone) -> None:
    assert decode_record(encode(record)) == record


def test_facts_are_json_that_comes_back() -> None:
    fact = facts.KeyAnnounced(node_id="site-a", public_key="k", epoch=2**62, endpoints=("192.0.2.1:1",))  # type: ignore[arg-type]
    assert msgspec.json.decode(msgspec.json.encode(fact), type=facts.AnyFact) == fact
