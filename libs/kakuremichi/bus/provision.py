"""Bring the streams to what the topology says. Safe to repeat; never deletes, never purges."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kakuremichi.bus import jetstream
from kakuremichi.bus.jetstream import NO_STREAM, StreamInfo, StreamRefusedError
from kakuremichi.bus.port import Bus
from kakuremichi.bus.topology import MAX_PAYLOAD_BYTES, STREAMS, StreamSpec

_API_TIMEOUT_S = 5.0
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Provisioned:
    stream: str
    outcome: Literal["created", "updated", "unchanged"]


async def provision(bus: Bus, *, streams: Iterable[StreamSpec] = STREAMS, replicas: int = 1) -> tuple[Provisioned, ...]:
    """Create or update each stream; :class:`BusError` with the server's sentence for the first that cannot be."""
    return tuple([await _provision(bus, stream_config(spec, replicas)) for spec in streams])


def stream_config(spec: StreamSpec, replicas: int) -> dict[str, Any]:
    """JetStream's own form of a stream; durations in nanoseconds, -1 is unlimited."""
    return {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "storage": "file",
        "discard": spec.discard,
        "num_replicas": replicas,
        "max_age": spec.max_age_s * _NANOSECONDS,
        "max_bytes": spec.max_bytes or -1,
        "max_msgs_per_subject": spec.max_msgs_per_subject or -1,
        "max_msg_size": MAX_PAYLOAD_BYTES,
        "duplicate_window": spec.duplicate_window_s * _NANOSECONDS,
        "deny_delete": True,
        "deny_purge": spec.deny_purge,
        "no_ack": spec.no_ack,
        "allow_direct": False,  # any replica would answer a direct read, also one that is behind
    }


async def _provision(bus: Bus, wanted: dict[str, Any]) -> Provisioned:
    name = wanted["name"]
    try:
        found = await _call(bus, "INFO", name, b"")
    except StreamRefusedError as error:
        if error.code != NO_STREAM:
            raise
        await _call(bus, "CREATE", name, msgspec.json.encode(wanted))
        return Provisioned(name, "created")
    if all(found.config.get(key, _absent(value)) == value for key, value in wanted.items()):
        return Provisioned(name, "unchanged")
    await _call(bus, "UPDATE", name, msgspec.json.encode({**found.config, **wanted}))
    return Provisioned(name, "updated")


def _absent(value: object) -> object:
    """What an absent key means: the server leaves out what is zero or false."""
    return type(value)()


async def _call(bus: Bus, verb: str, name: str, data: bytes) -> StreamInfo:
    answer = await bus.request(f"$JS.API.STREAM.{verb}.{name}", data, timeout_s=_API_TIMEOUT_S)
    return jetstream.parse_info(name, answer)
