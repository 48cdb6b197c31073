"""Lists for people: one page of rows each, in the order of their names."""

import asyncpg
import msgspec

from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.sql import LIVE_S, SERVICE_JSON

PAGE = 200

NODES = f"""
select n.node_id, n.role, n.pool, n.slot, n.subnet, n.endpoints, n.public_key, n.epoch, r.report,
       n.quarantined_at is not null as quarantined, n.revoked_at is not null as revoked, n.pending,
       r.at as reported_at, coalesce(r.at > clock_timestamp() - interval '{LIVE_S} seconds', false) as live,
       (select coalesce(json_object_agg(h.feed, h.feed_seq), '{{}}'::json)::text from feed_head h
        where h.feed = any(case n.role when 'gateway' then array['feed.pool.' || n.pool]
                           else array['feed.fleet.' || n.pool, 'feed.agent.' || n.node_id] end)) as heads
from node n left join report r using (node_id)
where (n.removed_at is null or n.revoked_at is not null)
  and n.role = $1 and n.node_id > $2 and ($3 = '' or n.node_id = $3)
order by n.node_id limit {PAGE}
"""  # noqa: S608  # constants of ours only
SERVICES = f"""
select {SERVICE_JSON}::text from service s where s.service_id > $1 and ($2 = '' or s.service_id = $2)
order by s.service_id limit {PAGE}
"""  # noqa: S608  # constants of ours only
ERRORS = f"""
select r.node_id, r.report from report r join node n using (node_id)
where r.has_errors and n.removed_at is null and r.at > clock_timestamp() - interval '{LIVE_S} seconds'
order by r.node_id
"""  # noqa: S608  # constants of ours only
# The newest first, so the place of a token is its age.
TOKENS = f"""
select token_id, role, node_id, pool, expires_at, used_at, expires_at <= clock_timestamp() as expired,
       to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS') || token_id as place
from join_token
where $1 = '' or to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS') || token_id < $1
order by place desc limit {PAGE}
"""  # noqa: S608  # constants of ours only
EVENTS = "select seq, hash, topic, actor, at, fact, traceparent from event_log where seq > $1 order by seq limit $2"
NEWEST_EVENTS = """
select seq, hash, topic, actor, at, fact, traceparent from event_log
where $1 = 0 or seq < $1 order by seq desc limit $2
"""

_service = msgspec.json.Decoder(ServiceRow)


async def nodes(database: Database, role: str, after: str, only: str) -> list[asyncpg.Record]:
    return await database.fetch(NODES, role, after, only)


async def services(database: Database, after: str, only: str) -> list[ServiceRow]:
    return [_service.decode(row[0]) for row in await database.fetch(SERVICES, after, only)]


async def reports_with_errors(database: Database) -> list[asyncpg.Record]:
    return await database.fetch(ERRORS)


async def tokens(database: Database, after: str) -> list[asyncpg.Record]:
    return await database.fetch(TOKENS, after)


async def events(database: Database, after: int, limit: int, *, newest_first: bool) -> list[asyncpg.Record]:
    """From `after` on (exclusive), or with `newest_first` backwards from it; 0 begins at the end that comes first."""
    return await database.fetch(NEWEST_EVENTS if newest_first else EVENTS, after, limit)
