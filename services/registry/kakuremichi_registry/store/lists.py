"""Lists for people: one page of rows each, in the order of their names."""

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType

from kakuremichi.model.ids import ServiceId
from kakuremichi.wire.commands import ListEvents, Listing, ListNodes, ListServices, ListTokens
from kakuremichi_registry.contexts import ServiceRow
from kakuremichi_registry.database import Database
from kakuremichi_registry.store.sql import LIVE_S, SERVICE_JSON

PAGE = 200
RECENT = 50_000  # rows of the log

NODES = f"""
select n.node_id, n.role, n.pool, n.slot, n.subnet, n.endpoints, n.public_key, n.epoch, r.report, n.updated_seq,
       n.quarantined_at is not null as quarantined, n.revoked_at is not null as revoked, n.pending,
       r.at as reported_at, coalesce(r.at > clock_timestamp() - interval '{LIVE_S} seconds', false) as live,
       (select coalesce(json_object_agg(h.feed, h.feed_seq), '{{}}'::json)::text from feed_head h
        where h.feed = any(case n.role when 'gateway' then array['feed.pool.' || n.pool]
                           else array['feed.fleet.' || n.pool, 'feed.agent.' || n.node_id] end)) as heads
from node n left join report r using (node_id)
where (n.removed_at is null or n.revoked_at is not null)
  and n.role = $1 and n.node_id > $2 and ($3 = '' or n.node_id = $3) and ($5::text is null or n.pool = $5)
  and ($6::text is null or $6 = case when n.revoked_at is not null then 'revoked' when n.pending then 'pending'
       when n.quarantined_at is not null then 'quarantined'
       when r.at > clock_timestamp() - interval '{LIVE_S} seconds' then 'live'
       when r.at is null then 'enrolled' else 'offline' end)
order by n.node_id limit $4
"""  # noqa: S608  # constants of ours only
SERVICES = f"""
select {SERVICE_JSON}::text from service s where s.service_id > $1 and ($2 = '' or s.service_id = $2)
  and ($4::text is null or s.pool = $4) and ($5::text is null or s.kind = $5) and ($6::text is null or s.host = $6)
  and ($7::text is null or s.source = $7)
  and ($8::text is null or exists (select from service_target t where t.service_id = s.service_id and t.agent = $8))
  and ($9::text is null or $9 = case when exists (select from service_target t where t.service_id = s.service_id)
       then 'active' else 'no-target' end)
order by s.service_id limit $3
"""  # noqa: S608  # constants of ours only
ERRORS = f"""
select r.node_id, r.report from report r join node n using (node_id)
where r.has_errors and n.removed_at is null and r.at > clock_timestamp() - interval '{LIVE_S} seconds'
order by r.node_id
"""  # noqa: S608  # constants of ours only
# Both in one statement: the services of these names, and who reports errors.
SERVICES_OF = f"""
select {SERVICE_JSON}::text as service, null as node_id, null as report from service s where s.service_id = any($1)
union all select null, e.node_id, e.report from ({ERRORS}) e
"""  # noqa: S608  # constants of ours only
# The newest first, so the place of a token is its age.
TOKENS = """
select token_id, role, node_id, pool, expires_at, used_at, expires_at <= clock_timestamp() as expired,
       to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS') || token_id as place
from join_token
where ($1 = '' or to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS') || token_id < $1)
  and ($3::text is null or pool = $3)
  and ($4::text is null or $4 = case when used_at is not null then 'used'
       when expires_at <= clock_timestamp() then 'expired' else 'open' end)
order by place desc limit $2
"""
EVENTS = "select seq, hash, topic, actor, at, fact, traceparent from event_log where seq > $1 order by seq limit $2"
NEWEST_EVENTS = """
select seq, hash, topic, actor, at, fact, traceparent from event_log
where $1 = 0 or seq < $1 order by seq desc limit $2
"""
# Whoever asks for a trace has seen it lately: older rows are not looked at.
EVENTS_OF_TRACE = f"""
select seq, hash, topic, actor, at, fact, traceparent from event_log
where seq > (select max(seq) from event_log) - {RECENT} and seq > $1 and substr(traceparent, 4, 32) = $3
order by seq limit $2
"""  # noqa: S608  # constants of ours only
# Items and events of one write bear the same traceparent. Of all events only the newest items are looked at.
POSITIONS = """
with item as materialized (
    select traceparent, feed, max(feed_seq) as feed_seq from feed_item
    where traceparent <> '' and ($1 <> 0 or item_seq > (select item_seq from log_head) - 4000)
      and ($1 = 0 or traceparent = (select traceparent from event_log where seq = $1))
    group by traceparent, feed
)
select e.seq, e.at, e.topic, e.traceparent, (select log_id from log_head) as log_id,
       (select coalesce(json_agg(json_build_array(i.feed, i.feed_seq) order by i.feed), '[]'::json)::text
        from item i where i.traceparent = e.traceparent) as positions
from event_log e where $1 = 0 or e.seq = $1 order by e.seq desc limit $2
"""

_service = msgspec.json.Decoder(ServiceRow)


def most(command: Listing) -> int:
    """How many rows one page may have."""
    return PAGE if command.limit is UNSET else min(command.limit, PAGE)


def _only(value: str | UnsetType) -> str | None:
    return None if value is UNSET else value


async def nodes(database: Database, asked: ListNodes) -> list[asyncpg.Record]:
    return await database.fetch(
        NODES, asked.role, asked.after, asked.node_id, most(asked), _only(asked.pool), _only(asked.state)
    )


async def services(database: Database, asked: ListServices) -> list[ServiceRow]:
    rows = await database.fetch(
        SERVICES, asked.after, asked.service_id, most(asked),
        *map(_only, (asked.pool, asked.kind, asked.host, asked.source, asked.agent, asked.state)),
    )  # fmt: skip
    return [_service.decode(row[0]) for row in rows]


async def services_of(database: Database, names: list[ServiceId]) -> tuple[list[ServiceRow], list[asyncpg.Record]]:
    """Those of these names that there are, and the reports with errors."""
    rows = await database.fetch(SERVICES_OF, names)
    services = [_service.decode(row["service"]) for row in rows if row["service"] is not None]
    return services, [row for row in rows if row["service"] is None]


async def reports_with_errors(database: Database) -> list[asyncpg.Record]:
    return await database.fetch(ERRORS)


async def tokens(database: Database, asked: ListTokens) -> list[asyncpg.Record]:
    return await database.fetch(TOKENS, asked.after, most(asked), _only(asked.pool), _only(asked.state))


async def positions(database: Database, seq: int, limit: int) -> list[asyncpg.Record]:
    """Of the event `seq`, or of the newest; newest first."""
    return await database.fetch(POSITIONS, seq, limit)


async def events(database: Database, asked: ListEvents) -> list[asyncpg.Record]:
    """From `after` on (exclusive), or with `newest_first` backwards from it; 0 begins at the end that comes first."""
    if asked.trace_id is not UNSET:
        return await database.fetch(EVENTS_OF_TRACE, asked.after, asked.limit, asked.trace_id)
    return await database.fetch(NEWEST_EVENTS if asked.newest_first else EVENTS, asked.after, asked.limit)
