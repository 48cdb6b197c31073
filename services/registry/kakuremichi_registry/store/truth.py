"""The tables of the truth in the canonical form of `kakuremichi.audit.rows`, and the log that they come from."""

from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
from msgspec import UNSET

from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.rows import (
    KEYS,
    FreedHost,
    FreedSlot,
    JoinToken,
    Node,
    Row,
    Service,
    options_of,
    table_of,
)
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import text_of

# What a column of the canonical row is in the table, where it is not the column of the same name.
EXPRESSIONS: dict[type[Row], dict[str, str]] = {
    JoinToken: {
        "expires_at": """to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')""",
        "used": "used_at is not null",
    },
    Node: {
        "slot": "coalesce(slot, 0)",
        "subnet": "coalesce(text(subnet), '')",
        "announcement": "coalesce(announcement, '')",
        "announced_hash": "coalesce(announced_hash, '')",
        "public_key": "coalesce(public_key, '')",
        "networks": 'array(select distinct text(n) collate "C" as word from unnest(networks) n order by word)',
        "quarantined": "quarantined_at is not null",
        "removed": "removed_at is not null",
        "revoked": "revoked_at is not null",
    },
}
LEFT_OUT: dict[type[Row], frozenset[str]] = {FreedHost: frozenset({"until"}), FreedSlot: frozenset({"freed_at"})}
# $1 is the moment; the comparison is that of `State.rows`.
CONDITIONS: dict[type[Row], str] = {
    FreedHost: "until > $1",
    JoinToken: "date_trunc('second', expires_at) > $1",
}


class Truth(NamedTuple):
    """The tables and the head of the log at one moment."""

    log_id: str
    seq: int
    hash: bytes
    moment: str
    rows: tuple[Row, ...]


def statement(kind: type[Row]) -> str:
    expressions, left_out = EXPRESSIONS.get(kind, {}), LEFT_OUT.get(kind, frozenset())
    columns = ", ".join(
        f"{expressions[name]} as {name}" if name in expressions else name
        for name in kind.__struct_fields__
        if name not in left_out
    )
    return f"select {columns} from {table_of(kind)} where {CONDITIONS.get(kind, '$1::timestamptz is not null')}"  # noqa: S608  # constants of ours


async def read(database: Database, moment: datetime | None = None) -> Truth:
    """All rows that count at `moment`, which is now by default: as they are in one snapshot of the database."""
    async with (
        database.own_connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        head = await connection.fetchrow("select log_id, seq, hash, clock_timestamp() as now from log_head")
        if head is None:
            raise LookupError("log_head: has no row; the database was never prepared")
        at = moment or head["now"]
        rows = [row for kind in KEYS for row in await _rows(connection, kind, at)]
    return Truth(head["log_id"], head["seq"], head["hash"], text_of(at), tuple(rows))


async def _rows(connection: "asyncpg.Connection[asyncpg.Record]", kind: type[Row], at: datetime) -> list[Row]:
    return [kind(**_values(kind, record)) for record in await connection.fetch(statement(kind), at)]


def _values(kind: type[Row], record: asyncpg.Record) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    if kind is Service:
        values["options"] = options_of(values["options"])
        values["source"] = values["source"] or UNSET
    return values


LOG = """
select seq, prev, hash, topic, actor, at, fact from event_log where seq > $1 and seq <= $2 order by seq limit $3
"""


async def log_rows(database: Database, after: int, until: int, limit: int) -> list[LogRow]:
    """Rows of the log after `after` up to and with `until`, at most `limit`."""
    return [
        LogRow(row["seq"], row["prev"], row["hash"], row["topic"], row["actor"], text_of(row["at"]), row["fact"])
        for row in await database.fetch(LOG, after, until, limit)
    ]
