"""What is different between two states, and which event was the last to have to do with it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.rows import (
    FreedHost,
    JoinToken,
    Node,
    NodeKey,
    NodeRenewal,
    RevokedIdentity,
    Row,
    Service,
    ServiceTarget,
    SpentSerial,
    canonical,
    key_of,
)


class Change(NamedTuple):
    """`before` is None where there was no such row, `after` where there is none any more."""

    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        row = self.after or self.before
        assert row is not None  # noqa: S101  # one of the two is there, or there was no change
        return row


def changes(before: Iterable[Row], after: Iterable[Row]) -> list[Change]:
    """In the order of the canonical lines."""
    old, new = ({key_of(row): row for row in rows} for rows in (before, after))
    found = [
        Change(old.get(key), new.get(key)) for key in old.keys() | new.keys() if not _same(old.get(key), new.get(key))
    ]
    return sorted(found, key=lambda change: canonical(change.row))


def _same(one: Row | None, other: Row | None) -> bool:
    return one is other or (one is not None and other is not None and canonical(one) == canonical(other))


class _About(Struct, frozen=True):
    """Of every fact, what it is about."""

    node_id: str = ""
    service_id: str = ""
    services: tuple[str, ...] = ()


@dataclass
class Touches:
    """The last row of the log that was about each node and each service."""

    nodes: dict[str, LogRow] = field(default_factory=dict)
    services: dict[str, LogRow] = field(default_factory=dict)

    def add(self, rows: Iterable[LogRow]) -> None:
        for row in rows:
            about = _about.decode(row.fact)
            if about.node_id:
                self.nodes[about.node_id] = row
            for service in (about.service_id, *about.services):
                if service:
                    self.services[service] = row

    def of(self, row: Row) -> LogRow | None:
        match row:
            case Service() | ServiceTarget() | FreedHost():
                return self.services.get(row.service_id)
            case Node() | NodeKey() | NodeRenewal() | SpentSerial() | RevokedIdentity() | JoinToken():
                return self.nodes.get(row.node_id)
        return None


_about = msgspec.json.Decoder(_About)
