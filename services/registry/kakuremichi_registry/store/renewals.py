"""The next certificates of nodes: what decisions look at, and their writes."""

from typing import NamedTuple

from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import Entry, Written

SEE = """
select n.certificate, n.serial, n.quarantined_at is not null as quarantined,
       r.certificate as next, coalesce(r.serial, 0) as next_serial, coalesce(r.complete, false) as complete
from node n left join node_renewal r using (node_id)
where n.node_id = $1 and n.removed_at is null and not n.pending
"""
OF_SERIAL = """
select certificate, false as next from node
where node_id = $1 and serial = $2 and removed_at is null and not pending
union all select certificate, true from node_renewal where node_id = $1 and serial = $2 and complete
"""


class Seen(NamedTuple):
    """A live node's certificate and the one after it, if that was proposed."""

    certificate: Signed
    serial: int
    quarantined: bool
    next: Signed | None
    next_serial: int
    complete: bool


async def see(database: Database, node_id: str) -> Seen | None:
    row = await database.fetch_one(SEE, node_id)
    if row is None:
        return None
    return Seen(
        decode(row["certificate"], Signed), row["serial"], row["quarantined"],
        None if row["next"] is None else decode(row["next"], Signed), row["next_serial"], row["complete"],
    )  # fmt: skip


class Held(NamedTuple):
    """A certificate that a live node may have. `next`: it has not been heard of with it yet."""

    certificate: Signed
    next: bool


async def of_serial(database: Database, node_id: str, serial: int) -> Held | None:
    row = await database.fetch_one(OF_SERIAL, node_id, serial)
    return None if row is None else Held(decode(row["certificate"], Signed), row["next"])


async def renew(
    database: Database, entry: Entry, node_id: str, seen: Seen, *, serial: int, signed: Signed, complete: bool
) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_renew($1::kk_entry, $2, $3, $4, $5, $6, $7)",
            entry, node_id, seen.serial, seen.next_serial, serial, encode(signed), complete,
        )
    )  # fmt: skip
