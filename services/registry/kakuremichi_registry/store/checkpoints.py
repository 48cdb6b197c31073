"""The tree over the log and what was said about it: runs, checkpoints, witnesses."""

from typing import NamedTuple

from kakuremichi.wire.checkpoints import Cosignature
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.signing import Signature, Signed
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.entries import text_of

RUN = 1024  # rows whose root is kept; a power of two
MOST_WITNESSES = 8  # of one checkpoint are shown: a message has 64 kB, and one honest one is enough

# Of rows that were retired the hashes alone are left, those of a run in one piece; $3 is the length of a run.
HASHES = """
select hash from (
    select r.number * $3 + place as seq, substr(r.entries, (place - 1)::integer * 32 + 1, 32) as hash
    from log_cut_run r cross join generate_series(1, $3) as place
    where r.number >= $1 / $3 and r.number * $3 < $2 and r.number * $3 < (select max(seq) from log_cut)
    union all
    select seq, hash from event_log where seq > $1 and seq <= $2
) entry where seq > $1 and seq <= $2 order by seq
"""
HEAD = """
select l.log_id, l.seq, l.hash, e.at, coalesce(c.size, 0) as size,
       coalesce(extract(epoch from clock_timestamp() - c.at), 1e9)::float8 as age_s
from log_head l join event_log e on e.seq = l.seq
left join lateral (select size, at from checkpoint order by size desc limit 1) c on true
"""
BETWEEN = """
select c.size, c.signed, coalesce(array_agg(w.certificate) filter (where w.size is not null), '{}') as certificates,
       coalesce(array_agg(w.signature) filter (where w.size is not null), '{}') as signatures
from (select * from checkpoint where size > $1 and size <= $2 order by size limit $3) c
left join lateral (select * from checkpoint_witness w where w.size = c.size order by node_id limit $4) w on true
group by c.size, c.signed order by c.size
"""
WITNESS = """
insert into checkpoint_witness (size, node_id, certificate, signature) values ($1, $2, $3, $4) on conflict do nothing
"""


class Head(NamedTuple):
    """The end of the log, and how far behind it the newest checkpoint is (size 0: there is none)."""

    log_id: str
    seq: int
    hash: bytes
    at: str
    size: int
    age_s: float


class Kept(NamedTuple):
    size: int
    signed: Signed
    witnesses: tuple[Cosignature, ...]


async def head(database: Database) -> Head | None:
    """None while the log is empty."""
    row = await database.fetch_one(HEAD)
    if row is None:
        return None
    return Head(row["log_id"], row["seq"], row["hash"], text_of(row["at"]), row["size"], row["age_s"])


async def hashes(database: Database, after: int, until: int) -> list[bytes]:
    """Of the rows after `after` up to and with `until`: the entries of the tree."""
    return [row["hash"] for row in await database.fetch(HASHES, after, until, RUN)]


async def runs(database: Database, first: int = 0) -> list[bytes]:
    """The roots of the whole runs from number `first` on."""
    rows = await database.fetch("select root from log_run where number >= $1 order by number", first)
    return [row["root"] for row in rows]


async def keep_run(database: Database, number: int, root: bytes) -> None:
    await database.execute(
        "insert into log_run (number, root) values ($1, $2) on conflict (number) do nothing", number, root
    )


async def keep(database: Database, size: int, signed: Signed) -> None:
    """The first of several replicas is the one that counts."""
    await database.execute(
        "insert into checkpoint (size, at, signed) values ($1, clock_timestamp(), $2) on conflict do nothing",
        size, encode(signed),
    )  # fmt: skip


async def newest(database: Database) -> Kept | None:
    row = await database.fetch_one("select size, signed from checkpoint order by size desc limit 1")
    return None if row is None else Kept(row["size"], decode(row["signed"], Signed), ())


async def of_size(database: Database, size: int) -> Signed | None:
    row = await database.fetch_one("select signed from checkpoint where size = $1", size)
    return None if row is None else decode(row["signed"], Signed)


async def between(database: Database, after: int, until: int, limit: int) -> list[Kept]:
    """Checkpoints of more than `after` rows and at most `until`."""
    return [
        Kept(
            row["size"],
            decode(row["signed"], Signed),
            tuple(
                Cosignature(certificate=decode(certificate, Signed), signature=decode(signature, Signature))
                for certificate, signature in zip(row["certificates"], row["signatures"], strict=True)
            ),
        )
        for row in await database.fetch(BETWEEN, after, until, limit, MOST_WITNESSES)
    ]


async def keep_witness(database: Database, size: int, node_id: str, certificate: Signed, signature: Signature) -> None:
    await database.execute(WITNESS, size, node_id, encode(certificate), encode(signature))
