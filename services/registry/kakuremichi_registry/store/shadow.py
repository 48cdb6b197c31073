"""Writing a folded state into the tables of an empty database."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from ipaddress import IPv4Network, ip_network
from typing import Any

import asyncpg
import msgspec
from msgspec import structs

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.export import Begin, Header
from kakuremichi.audit.rows import FreedHost, FreedSlot, JoinToken, Node, Row, Service, table_of
from kakuremichi.audit.state import State, dump
from kakuremichi.model.addresses import parse_endpoint

Connection = asyncpg.Connection  # generic in the stubs only

AT_ONCE = 1000  # rows of one call, which has to end in seconds

SecretOf = Callable[[str], bytes]

# Ports as one range of numbers, which depend on the database's own numbers of pools and nodes.
SPAN_OF_TARGET = """
insert into service_target (target_id, service_id, agent, proto, agent_port, agent_last_port, address, port, span)
select $1, $2, $3, $4, $5, $6, $7, $8, kk_span(number, $4, $5, $6) from node where node_id = $3
"""
SPAN_OF_SERVICES = """
update service s set span = kk_span(p.number, s.kind, s.first_port, s.last_port)
from pool p where p.pool = s.pool and s.kind in ('tcp', 'udp')
"""


async def begin(
    connection: "Connection[asyncpg.Record]", header: Header, state: State, networks: Sequence[IPv4Network]
) -> None:
    """The deployment that the log is of, and the log's head."""
    await connection.execute(
        "insert into deployment (deployment_id, trust_set, feed_key, networks) values ($1, $2, $3, $4)",
        header.deployment, header.trust, header.feed_key, list(networks),
    )  # fmt: skip
    await connection.execute(
        "insert into log_head (log_id, seq, hash) values ($1, $2, $3)", state.log_id, state.seq, state.hash
    )


async def begin_late(connection: "Connection[asyncpg.Record]", begin: Begin, state: State) -> None:
    """The rows before have left the log: what is known of them is where it begins."""
    await connection.execute(
        "insert into log_cut (seq, first_row, hash, at, roots, export_sha256, state, event_seq)"
        " values ($1, 1, $2, $3, $4, $5, $6, 0)",
        begin.seq, state.hash, datetime.fromisoformat(begin.at), list(begin.roots), bytes.fromhex(begin.export_sha256),
        zlib.compress(dump(state), 1),
    )  # fmt: skip
    await connection.execute("select kk_log_partition($1)", begin.seq + 1)


async def append_log(connection: "Connection[asyncpg.Record]", rows: Sequence[LogRow]) -> None:
    if rows:
        await connection.execute("select kk_log_partition($1), kk_log_partition($2)", rows[0].seq, rows[-1].seq)
    await connection.executemany(
        "insert into event_log (seq, prev, hash, topic, actor, at, fact, traceparent)"
        " values ($1, $2, $3, $4, $5, $6, $7, '')",
        [(*row[:5], datetime.fromisoformat(row.at), row.fact) for row in rows],
    )


async def put(connection: "Connection[asyncpg.Record]", state: State, secret_of: SecretOf) -> None:
    """All rows. What the tables know the moment of, and the log's rows do not tell, has that of the last of them."""
    # They are for nodes that are enrolled now, and would take away what the log tells of these.
    await connection.execute("alter table node disable trigger user")
    tables: tuple[Iterable[Row], ...] = (
        state.pools.values(), state.nodes.values(), state.node_keys.values(), state.renewals.values(),
        state.spent_serials.values(), state.revoked.values(), state.tokens.values(), state.freed_slots.values(),
        state.services.values(), state.freed_hosts.values(),
    )  # fmt: skip
    for rows in tables:
        await _insert(connection, [(table_of(row), _columns(row, state.at, secret_of)) for row in rows])
    await connection.execute(SPAN_OF_SERVICES)
    targets = [target for each in state.targets.values() for target in each]
    for first in range(0, len(targets), AT_ONCE):
        some = targets[first : first + AT_ONCE]
        await connection.executemany(SPAN_OF_TARGET, [structs.astuple(target) for target in some])
    # The log's last row is the latest that any of them can have been changed by.
    await connection.execute("update node set updated_seq = (select seq from log_head)")
    await connection.execute("alter table node enable trigger user")


async def _insert(connection: "Connection[asyncpg.Record]", rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    if not rows:
        return
    table, first = rows[0]
    places = ", ".join(f"${number}" for number in range(1, len(first) + 1))
    statement = f"insert into {table} ({', '.join(first)}) values ({places})"  # noqa: S608  # names of ours only
    for first_of in range(0, len(rows), AT_ONCE):
        some = rows[first_of : first_of + AT_ONCE]
        await connection.executemany(statement, [tuple(values.values()) for _, values in some])


def _columns(row: Row, at: str, secret_of: SecretOf) -> dict[str, Any]:
    values = structs.asdict(row)
    match row:
        case Node():
            return _node(row, values, datetime.fromisoformat(at))
        case JoinToken():
            used_at = datetime.fromisoformat(at) if values.pop("used") else None
            expires_at = datetime.fromisoformat(row.expires_at)
            return values | {"secret_hash": secret_of(row.token_id), "expires_at": expires_at, "used_at": used_at}
        case FreedSlot():
            return values | {"freed_at": datetime.fromisoformat(str(row.freed_at))}
        case FreedHost():
            return values | {"until": datetime.fromisoformat(str(row.until))}
        case Service():
            options = msgspec.json.encode(row.options).decode()
            return values | {"options": options, "source": row.source or ""}
    return values


def _node(row: Node, values: dict[str, Any], at: datetime) -> dict[str, Any]:
    for state in ("quarantined", "removed", "revoked"):
        values[f"{state}_at"] = at if values.pop(state) else None
    return values | {
        "slot": row.slot or None, "subnet": ip_network(row.subnet) if row.subnet else None,
        "announcement": row.announcement or None, "announced_hash": row.announced_hash or None,
        "public_key": row.public_key or None, "networks": [ip_network(network) for network in row.networks],
        "endpoint_addresses": [parse_endpoint(endpoint).address for endpoint in row.endpoints],
    }  # fmt: skip
