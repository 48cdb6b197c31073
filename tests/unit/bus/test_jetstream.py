import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.bus import jetstream
from kakuremichi.bus.jetstream import StreamRefusedError
from kakuremichi.bus.port import Ack, BusError, BusUnavailableError, Message


def answer(body: object, **headers: str) -> Message:
    return Message("_INBOX.x", json.dumps(body).encode() if body is not None else b"", "", headers)


def test_an_ack_is_read() -> None:
    assert jetstream.parse_ack("feed.x", answer({"stream": "FEED", "seq": 7, "domain": "hub"})) == Ack("FEED", 7, False)
    assert jetstream.parse_ack("feed.x", answer({"stream": "FEED", "seq": 7, "duplicate": True})).duplicate


def test_a_refusal_carries_the_sentence_and_the_code() -> None:
    refusal = {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 4"}, "stream": "FEED"}
    with pytest.raises(
        StreamRefusedError, match=r"feed\.x: wrong last sequence: 4 \(JetStream error 10071\)"
    ) as caught:
        jetstream.parse_ack("feed.x", answer(refusal))
    assert caught.value.code == jetstream.WRONG_LAST_SEQUENCE


def test_nobody_there_is_said_in_words() -> None:
    with pytest.raises(BusError, match=r"feed\.x: no stream stores this subject"):
        jetstream.parse_ack("feed.x", answer(None, Status="503"))
    with pytest.raises(BusUnavailableError, match="stream FEED: JetStream does not answer"):
        jetstream.parse_info("FEED", answer(None, Status="503"))
    with pytest.raises(BusUnavailableError, match="stream FEED: JetStream does not answer"):
        jetstream.parse_stored("FEED", answer(None, Status="503"))


def test_a_stored_message_comes_with_its_headers() -> None:
    raw = b"NATS/1.0\r\nNats-Msg-Id: log:1\r\ntraceparent: 00-a-b-01\r\n\r\n"
    stored = {"subject": "feed.x", "data": base64.b64encode(b"\0item").decode(), "hdrs": base64.b64encode(raw).decode()}
    message = jetstream.parse_stored("FEED", answer({"message": stored}))
    assert message == Message("feed.x", b"\0item", "", {"Nats-Msg-Id": "log:1", "traceparent": "00-a-b-01"})
    none = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}
    assert jetstream.parse_stored("FEED", answer(none)) is None


@given(st.binary(max_size=60))
def test_junk_is_a_bus_error_and_nothing_else(junk: bytes) -> None:
    for parse in (jetstream.parse_ack, jetstream.parse_info, jetstream.parse_stored):
        try:
            parse("X", Message("_INBOX.x", junk))
        except BusError:
            continue
