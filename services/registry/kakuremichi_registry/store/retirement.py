"""The log's partitions, what was retired of it, and the one write that retires."""

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from kakuremichi.audit.state import State, dump, load
from kakuremichi_registry.database import Database
from kakuremichi_registry.retirement import Partition
from kakuremichi_registry.store.entries import Entry, Written, text_of

PARTITIONS = """
select p.name, greatest(p.first_row, (select coalesce(max(seq), 0) + 1 from log_cut)) as first, p.last_row as last
from log_partition p order by p.first_row
"""
CUTS = "select first_row, seq, hash, at, roots, export_sha256, event_seq, cut_at from log_cut order by seq"
# Checkpoints with so many cosignatures; whether these are worth anything is for the verifier to say.
COVERING = """
select c.size from checkpoint c join checkpoint_witness w using (size)
where c.size >= $1 group by c.size having count(*) >= $2 order by c.size desc
"""
STATE = "select state, (select log_id from log_head) as log_id from log_cut where seq = $1 and state is not null"
KEEP_RUN = """
insert into log_cut_run (number, entries) values ($1, $2)
on conflict (number) do update set entries = excluded.entries
"""


class Cut(NamedTuple):
    """Rows `first` to `seq` have left, with the export that has this SHA-256."""

    first: int
    seq: int
    hash: bytes
    at: str
    roots: tuple[bytes, ...]
    export_sha256: bytes
    event_seq: int
    cut_at: str


class Deployment(NamedTuple):
    log_id: str
    deployment: bytes
    trust: bytes  # Signed TrustSet
    feed_key: bytes  # Signed FeedKeyCertificate


async def partitions(database: Database) -> tuple[Partition, ...]:
    return tuple(Partition(**row) for row in await database.fetch(PARTITIONS))


async def cuts(database: Database) -> list[Cut]:
    """The oldest first."""
    return [
        Cut(
            row["first_row"], row["seq"], row["hash"], text_of(row["at"]), tuple(row["roots"]), row["export_sha256"],
            row["event_seq"], text_of(row["cut_at"]),
        )
        for row in await database.fetch(CUTS)
    ]  # fmt: skip


async def newest_cut(database: Database) -> Cut | None:
    found = await cuts(database)
    return found[-1] if found else None


async def state_at_cut(database: Database, cut: Cut) -> State | None:
    """None if there has been another cut meanwhile."""
    row = await database.fetch_one(
        "select state, (select log_id from log_head) as log_id from log_cut where seq = $1 and state is not null",
        cut.seq,
    )
    if row is None:
        return None
    body = zlib.decompress(row["state"])
    return load(body, log_id=row["log_id"], seq=cut.seq, digest_of_row=cut.hash, at=cut.at)


async def deployment(database: Database) -> Deployment | None:
    row = await database.fetch_one("select log_id, deployment_id, trust_set, feed_key from log_head, deployment")
    return None if row is None else Deployment(*row)


async def relayed(database: Database) -> int:
    row = await database.fetch_one("select position from relay_cursor where relay = 'AUDIT'")
    return 0 if row is None else row["position"]


async def covering(database: Database, least: int, witnesses: int) -> list[int]:
    """Sizes of checkpoints of at least `least` rows that as many gateways brought signatures for; largest first."""
    return [row["size"] for row in await database.fetch(COVERING, least, witnesses)]


async def keep_run(database: Database, number: int, entries: bytes) -> None:
    await database.execute(KEEP_RUN, number, entries)


async def retire(database: Database, entry: Entry, going: Sequence[Partition], cut: Cut, state: State) -> Written:
    """The fact, what is kept, and the partitions that go, in one transaction; :class:`StaleError` after another cut."""
    row = (
        cut.seq, cut.first, cut.hash, datetime.fromisoformat(cut.at), list(cut.roots), cut.export_sha256,
        zlib.compress(dump(state), 1), None, None,
    )  # fmt: skip
    names = [part.name for part in going]
    return Written.of(
        await database.write("select * from kk_retire_log($1::kk_entry, $2, $3::log_cut)", entry, names, row)
    )
