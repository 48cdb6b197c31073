"""MessagePack both ways. Decoding names the message and the field that does not fit, whatever the bytes are."""

from functools import cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_MESSAGE_BYTES = 65536  # nats-server's max_payload in every configuration that we write

_encoder = msgspec.msgpack.Encoder()


class WireError(ValueError):
    """The bytes are not the agreed encoding of the message; the text is a sentence."""


def encode(message: object) -> bytes:
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T], *, name: str = "") -> T:
    """`data` as one `kind`; :class:`WireError` if it is too large, malformed, or not of that shape.

    Whether unknown fields are refused is a property of the struct (DESIGN: what nodes and clients send is
    strict, what the control plane sends is tolerant).
    """
    decoded: T = decode_any(data, kind, name=name or getattr(kind, "__name__", "message"))
    return decoded


def decode_any(data: bytes, union: Any, *, name: str) -> Any:
    """The same for a union of tagged structs, which has no type of its own to return."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"{name}: {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are read")
    return decode_kept(data, union, name=name)


def decode_kept(data: bytes, union: Any, *, name: str) -> Any:
    """The same for our own files, which may be larger than any message."""
    try:
        return _decoder(union).decode(data)
    except msgspec.ValidationError as error:
        raise WireError(f"{name}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec lets the last two escape from hostile input (measured), so all three are one refusal.
        raise WireError(f"{name}: not MessagePack of the agreed form ({error})") from error


@cache
def _decoder(union: Any) -> "msgspec.msgpack.Decoder[Any]":
    """Made once for each type: to look at a union of twenty structs costs ten times what decoding one of them does."""
    return msgspec.msgpack.Decoder(union)
