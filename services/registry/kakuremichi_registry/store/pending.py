"""Certificates that wait for signatures of trust keys which do not lie on this server: first ones and next ones."""

from typing import NamedTuple

import asyncpg

from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import Entry, Written

MOST = 200  # looked at for one answer: a certificate has some 300 bytes, a message 64 kB

ALL = """
select node_id, certificate, null as former from node where removed_at is null and pending and node_id > $1
union all select r.node_id, r.certificate, n.certificate from node_renewal r join node n using (node_id)
    where not r.complete and r.node_id > $1
order by node_id limit $2
"""
ONE = """
select certificate, false as renewal from node where node_id = $1 and removed_at is null and pending
union all select certificate, true from node_renewal where node_id = $1 and not complete
"""
OF_IDENTITY = """
select node_id, certificate, pending, endpoints from node
where identity_key = $1 and sealing_key = $2 and removed_at is null
"""


class Waiting(NamedTuple):
    certificate: Signed
    renewal: bool  # the node has one and goes on with it; this is its next


class Asked(NamedTuple):
    """A certificate that waits, with the signatures that it has so far, and the one that its node has meanwhile."""

    node_id: str
    certificate: Signed
    former: Signed | None


class Known(NamedTuple):
    """A live node, found by the identity key that it has proven to hold."""

    node_id: str
    certificate: Signed
    pending: bool
    endpoints: tuple[str, ...]


async def waiting(database: Database, after: str, most: int) -> list[Asked]:
    """By the names of their nodes. A node has one or none: who waits for the first is not asked to renew it."""
    return [
        Asked(
            row["node_id"], decode(row["certificate"], Signed),
            decode(row["former"], Signed) if row["former"] is not None else None,
        )
        for row in await database.fetch(ALL, after, most)
    ]  # fmt: skip


async def waiting_of(database: Database, node_id: str) -> Waiting | None:
    row = await database.fetch_one(ONE, node_id)
    return None if row is None else Waiting(decode(row["certificate"], Signed), row["renewal"])


async def of_identity(database: Database, identity_key: bytes, sealing_key: bytes) -> Known | None:
    row: asyncpg.Record | None = await database.fetch_one(OF_IDENTITY, identity_key, sealing_key)
    if row is None:
        return None
    return Known(row["node_id"], decode(row["certificate"], Signed), row["pending"], tuple(row["endpoints"]))


async def grant(
    database: Database, entry: Entry, node_id: str, *, seen: Waiting, signed: Signed, complete: bool
) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_grant_renewal($1::kk_entry, $2, $3, $4, $5)"
            if seen.renewal
            else "select * from kk_grant($1::kk_entry, $2, $3, $4, $5)",
            entry, node_id, encode(seen.certificate), encode(signed), complete,
        )
    )  # fmt: skip
