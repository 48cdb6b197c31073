"""Counters of services: a portal asks all gateways of a pool at once, each answers under its own subject.

There is no reply subject: what a portal believes is who spoke, and only the server's own look at subjects tells that.
"""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.ids import ServiceIdField
from kakuremichi.wire.requests import Answer, Request, Text

MOST_SERVICES = 200  # of one message: some 30 kB of answer

AskId = Annotated[bytes, Meta(min_length=16, max_length=16)]
# What clients of the API can read as a number, so that no gateway can spoil the sums.
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Rate = Annotated[float, Meta(ge=0, le=1e12)]
Statuses = Annotated[tuple[Count, ...], Meta(min_length=5, max_length=5)]


class AskCounters(Answer, frozen=True, kw_only=True, tag="ask-counters.v1"):
    """What have you counted of these services? Sent to a whole pool; read tolerantly, as all that nodes are sent."""

    ask_id: AskId  # repeated in the answers
    services: tuple[ServiceIdField, ...]


class Counted(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """One service on one gateway. None is what nobody counts for its kind, or could not be counted just now."""

    service_id: ServiceIdField
    connections: Count | None = None  # of tcp; flows of udp
    open: Count | None = None  # connections and flows at this moment, or requests that are being answered
    requests: Count | None = None
    statuses: Statuses | None = None  # answers of the classes 1xx to 5xx
    bytes_in: Count  # from visitors
    bytes_out: Count  # to them
    packets_in: Count | None = None
    packets_out: Count | None = None
    denied: Count | None = None  # requests that a rule of the service refused: allow-list, limits
    limited: Count | None = None  # first packets of connections beyond a limit
    connect_errors: Count | None = None  # towards the targets
    response_errors: Count | None = None
    rate: Rate | None = None  # new connections, flows or requests a second, just now


class CountersTold(Request, frozen=True, kw_only=True, tag="counters.v1"):
    """What a gateway has counted of those services that it serves; who it is, the subject tells."""

    ask_id: AskId
    counting_s: Rate  # since when this process counts what HAProxy carries
    services: Annotated[tuple[Counted, ...], Meta(max_length=MOST_SERVICES)]
    errors: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()  # why something is missing
