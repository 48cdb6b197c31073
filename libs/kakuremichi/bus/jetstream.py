"""The JSON that JetStream speaks, as far as we need it: acks, stream states, one stored message. Pure."""

import base64
import binascii
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from kakuremichi.bus.port import Ack, BusError, BusTimeoutError, BusUnavailableError, Message, StreamState

T = TypeVar("T")

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_LAST_SEQUENCE = "Nats-Expected-Last-Sequence"
NO_MESSAGE = 10037
NO_STREAM = 10059
WRONG_LAST_SEQUENCE = 10071
_NO_RESPONDERS = "503"


class StreamRefusedError(BusError):
    """JetStream said no. `code` is its error code, 10071 where the expected last sequence was another."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class _Error(Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Ack(Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


class _State(Struct, frozen=True):
    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0


class StreamInfo(Struct, frozen=True):
    config: dict[str, Any] = {}
    state: _State = _State()
    created: str = ""
    error: _Error | None = None


class _Stored(Struct, frozen=True):
    subject: str
    data: str = ""
    hdrs: str = ""


class _StoredAnswer(Struct, frozen=True):
    message: _Stored | None = None
    error: _Error | None = None


def no_responders(answer: Message) -> bool:
    """Whether the server itself answered that nobody listens there."""
    return not answer.data and answer.headers.get("Status") == _NO_RESPONDERS


def parse_ack(subject: str, answer: Message) -> Ack:
    """The ack of a publish to `subject`; :class:`StreamRefusedError` with the server's sentence, :class:`BusError`."""
    if no_responders(answer):
        raise BusError(f"{subject}: no stream stores this subject")
    ack = _decode(subject, answer.data, _Ack)
    if ack.error is not None:
        raise _refusal(subject, ack.error)
    if not ack.stream:
        raise BusError(f"{subject}: the ack names no stream")
    return Ack(ack.stream, ack.seq, ack.duplicate)


def parse_info(stream: str, answer: Message) -> StreamInfo:
    if no_responders(answer):
        raise BusUnavailableError(f"stream {stream}: JetStream does not answer")
    info = _decode(f"stream {stream}", answer.data, StreamInfo)
    if info.error is not None:
        raise _refusal(f"stream {stream}", info.error)
    return info


def state_of(info: StreamInfo) -> StreamState:
    return StreamState(info.state.first_seq, info.state.last_seq, info.state.messages, info.created)


def parse_stored(stream: str, answer: Message) -> Message | None:
    """The stored message, or None if there is none of that subject."""
    if no_responders(answer):
        raise BusUnavailableError(f"stream {stream}: JetStream does not answer")
    found = _decode(f"stream {stream}", answer.data, _StoredAnswer)
    if found.error is not None:
        if found.error.err_code == NO_MESSAGE:
            return None
        raise _refusal(f"stream {stream}", found.error)
    if found.message is None:
        raise BusError(f"stream {stream}: the answer holds no message")
    try:
        data = base64.b64decode(found.message.data, validate=True)
        headers = _headers(base64.b64decode(found.message.hdrs, validate=True))
    except binascii.Error as error:
        raise BusError(f"stream {stream}: the stored message is not base64") from error
    return Message(found.message.subject, data, "", headers)


def lost(subject: str) -> BusTimeoutError:
    """What those get who wait for an answer when the connection breaks."""
    return BusTimeoutError(f"{subject}: the connection broke before an answer came, so the outcome is unknown")


def too_late(subject: str, what: Literal["ack", "answer"], within_s: float) -> BusTimeoutError:
    return BusTimeoutError(f"{subject}: no {what} within {within_s:g} s, so the outcome is unknown")


def _refusal(what: str, error: _Error) -> StreamRefusedError:
    return StreamRefusedError(f"{what}: {error.description} (JetStream error {error.err_code})", error.err_code)


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]  # the first is the version
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _decode(what: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BusError(f"{what}: the answer is not JetStream's ({error})") from error
