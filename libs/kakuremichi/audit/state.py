"""The state that the log folds into: the rows of the truth after one row of the log. Pure."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields

from msgspec import UNSET

from kakuremichi.audit.rows import (
    KEYS,
    AnyRow,
    FreedHost,
    FreedSlot,
    JoinToken,
    Node,
    NodeKey,
    NodeRenewal,
    Pool,
    RevokedIdentity,
    Row,
    Service,
    ServiceTarget,
    SpentSerial,
    lines,
    parse,
    whole,
)
from kakuremichi.wire.identity import NO_HASH


@dataclass(slots=True)
class State:
    """Rows by their keys. `seq`, `hash` and `at` are those of the log row that it was folded up to."""

    log_id: str = ""
    seq: int = 0
    hash: bytes = NO_HASH
    at: str = ""
    pools: dict[str, Pool] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    node_keys: dict[bytes, NodeKey] = field(default_factory=dict)
    renewals: dict[str, NodeRenewal] = field(default_factory=dict)
    spent_serials: dict[str, SpentSerial] = field(default_factory=dict)
    revoked: dict[bytes, RevokedIdentity] = field(default_factory=dict)
    tokens: dict[str, JoinToken] = field(default_factory=dict)
    freed_slots: dict[tuple[str, int], FreedSlot] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    targets: dict[str, tuple[ServiceTarget, ...]] = field(default_factory=dict)  # by service
    freed_hosts: dict[str, FreedHost] = field(default_factory=dict)
    host_users: dict[str, int] = field(default_factory=dict)  # services by host: how many, 0 included

    def put_service(self, service: Service) -> None:
        self.drop_service(service.service_id)
        self.services[service.service_id] = service
        self.host_users[service.host] = self.host_users.get(service.host, 0) + 1

    def drop_service(self, service_id: str) -> None:
        old = self.services.pop(service_id, None)
        if old is not None:
            self.host_users[old.host] -= 1

    def rows(self, moment: str = "") -> Iterator[AnyRow]:
        """Every row that counts at `moment` (RFC 3339, UTC), but never before the last log row was written.

        Tokens that have expired and host names that have rested long enough are as good as gone: when the tables
        forget them is nobody's decision and in no log.
        """
        now = moment if later(moment, self.at) else self.at
        yield from self.pools.values()
        yield from self.nodes.values()
        yield from self.node_keys.values()
        yield from self.renewals.values()
        yield from self.spent_serials.values()
        yield from self.revoked.values()
        yield from (token for token in self.tokens.values() if later(token.expires_at, now))
        yield from self.freed_slots.values()
        yield from self.services.values()
        for targets in self.targets.values():
            yield from targets
        yield from (freed for freed in self.freed_hosts.values() if freed.until is UNSET or later(freed.until, now))

    def lines(self, moment: str = "") -> list[bytes]:
        """The canonical lines, sorted."""
        return lines(self.rows(moment))

    def put(self, row: Row) -> None:
        """Take a row in, as a snapshot has it."""
        if isinstance(row, Service):
            self.put_service(row)
        elif isinstance(row, ServiceTarget):
            self.targets[row.service_id] = (*self.targets.get(row.service_id, ()), row)
        else:
            values = tuple(getattr(row, name) for name in KEYS[type(row)])
            getattr(self, _PLACES[type(row)])[values[0] if len(values) == 1 else values] = row

    def copy(self) -> "State":
        """Another one that may go on from here: rows are immutable, so they are shared."""
        other = State(self.log_id, self.seq, self.hash, self.at)
        for each in fields(self):
            held = getattr(self, each.name)
            if isinstance(held, dict):
                setattr(other, each.name, held.copy())
        return other


_PLACES: dict[type[Row], str] = {
    FreedHost: "freed_hosts",
    FreedSlot: "freed_slots",
    JoinToken: "tokens",
    Node: "nodes",
    NodeKey: "node_keys",
    NodeRenewal: "renewals",
    Pool: "pools",
    RevokedIdentity: "revoked",
    SpentSerial: "spent_serials",
}


def digest(canonical_lines: Iterable[bytes]) -> str:
    """SHA-256 over the sorted lines, each with a line end, as hexadecimal digits: one word for a whole state."""
    total = hashlib.sha256()
    for line in canonical_lines:
        total.update(line + b"\n")
    return total.hexdigest()


def later(one: str, other: str) -> bool:
    """Whether the first of two RFC 3339 times in UTC comes after the second; either may lack microseconds, or be ""."""
    return _comparable(one) > _comparable(other)


def _comparable(at: str) -> str:
    return at if "." in at else f"{at.removesuffix('Z')}.000000Z"


def dump(state: State) -> bytes:
    """The rows for a snapshot, sorted; the place in the log is kept beside it. What has expired by then is left out."""
    return b"\n".join(sorted(map(whole, state.rows())))


def load(body: bytes, *, log_id: str, seq: int, digest_of_row: bytes, at: str) -> State:
    """What :func:`dump` gave; :class:`RowRefusedError` if it is not that."""
    state = State(log_id=log_id, seq=seq, hash=digest_of_row, at=at)
    for line in body.splitlines():
        state.put(parse(line))
    return state
