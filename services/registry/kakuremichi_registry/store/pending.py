"""Nodes that wait for signatures of trust keys which do not lie on this server."""

from typing import NamedTuple

import asyncpg

from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import Entry, Written

MOST = 200  # in one answer: a certificate has some 300 bytes, a message 64 kB

ALL = "select node_id, certificate from node where removed_at is null and pending order by node_id limit $1"
ONE = "select certificate from node where node_id = $1 and removed_at is null and pending"
OF_IDENTITY = """
select node_id, certificate, pending, endpoints from node
where identity_key = $1 and sealing_key = $2 and removed_at is null
"""


class Known(NamedTuple):
    """A live node, found by the identity key that it has proven to hold."""

    node_id: str
    certificate: Signed
    pending: bool
    endpoints: tuple[str, ...]


async def waiting(database: Database) -> tuple[Signed, ...]:
    """The certificates that wait, with the signatures that they have so far."""
    return tuple(decode(row["certificate"], Signed) for row in await database.fetch(ALL, MOST))


async def waiting_of(database: Database, node_id: str) -> Signed | None:
    row = await database.fetch_one(ONE, node_id)
    return None if row is None else decode(row["certificate"], Signed)


async def of_identity(database: Database, identity_key: bytes, sealing_key: bytes) -> Known | None:
    row: asyncpg.Record | None = await database.fetch_one(OF_IDENTITY, identity_key, sealing_key)
    if row is None:
        return None
    return Known(row["node_id"], decode(row["certificate"], Signed), row["pending"], tuple(row["endpoints"]))


async def grant(
    database: Database, entry: Entry, node_id: str, *, seen: Signed, signed: Signed, complete: bool
) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_grant($1::kk_entry, $2, $3, $4, $5)",
            entry, node_id, encode(seen), encode(signed), complete,
        )
    )  # fmt: skip
