"""Revocation, rotation, quarantine: what the decisions look at, and the writes."""

import msgspec

from kakuremichi_registry.contexts import UpkeepContext
from kakuremichi_registry.database import Database
from kakuremichi_registry.enrolment import Removal
from kakuremichi_registry.store.entries import Entry, Written
from kakuremichi_registry.store.sql import KNOWN_NODE_JSON, LIVE_S
from kakuremichi_registry.upkeep import ROTATE_TAG, Rotation

# $1 node, $2 the record's tag. Other gateways read the feed of their pool too.
SEE = f"""
with asked as (select * from node where node_id = $1)
select json_build_object(
    'log_id', (select log_id from log_head),
    'node', (select {KNOWN_NODE_JSON} from asked n),
    'public_key', (select encode(public_key, 'base64') from asked),
    'quarantined', (select coalesce(bool_or(quarantined_at is not null), false) from asked),
    'lacking', (select coalesce(json_agg(n.node_id order by n.node_id), '[]'::json)
                from node n join report r using (node_id), asked a
                where n.removed_at is null and (n.node_id = a.node_id or (a.role = 'gateway' and n.role = 'gateway'
                      and n.pool = a.pool)) and r.at > clock_timestamp() - interval '{LIVE_S} seconds'
                  and not $2 = any(r.tags))
)::text
"""  # noqa: S608  # constants of ours only

_seen = msgspec.json.Decoder(UpkeepContext)


async def see(database: Database, node_id: str) -> UpkeepContext:
    return _seen.decode((await database.fetch(SEE, node_id, ROTATE_TAG))[0][0])


async def revoke(database: Database, entry: Entry, node_id: str, removal: Removal) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_revoke_node($1::kk_entry, $2::kk_item[], $3, $4, $5, $6)",
            entry, list(removal.items), node_id, removal.serial, removal.epoch,
            [service.service_id for service in removal.services],
        )
    )  # fmt: skip


async def forget(database: Database, entry: Entry, node_id: str) -> Written:
    return Written.of(await database.write("select * from kk_forget_revoked($1::kk_entry, $2)", entry, node_id))


async def rotate(database: Database, entry: Entry, node_id: str, rotation: Rotation) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_rotate_node($1::kk_entry, $2::kk_item[], $3, $4)",
            entry, list(rotation.items), node_id, rotation.epoch,
        )
    )  # fmt: skip


async def quarantine(database: Database, entry: Entry, node_id: str, epoch: int) -> Written:
    return Written.of(
        await database.write("select * from kk_quarantine_node($1::kk_entry, $2, $3)", entry, node_id, epoch)
    )


async def release(database: Database, entry: Entry, node_id: str) -> Written:
    return Written.of(await database.write("select * from kk_release_node($1::kk_entry, $2)", entry, node_id))
