"""Services: what their publication looks at, and its writes."""

import msgspec

from kakuremichi.model.addresses import AGENT_PORTS
from kakuremichi_registry.contexts import PublishContext, ServiceRow, UnpublishContext
from kakuremichi_registry.database import Database
from kakuremichi_registry.forms import Wanted
from kakuremichi_registry.items import Item
from kakuremichi_registry.publishing import Publication, first_choice, wanted_tag
from kakuremichi_registry.store.entries import Entry, Written
from kakuremichi_registry.store.sql import LIVE_S, SERVICE_JSON, names

# $1 service, $2 pool, $3 kind, $4 host, $5 first and $6 last port, $7 agents, $8 target addresses, $9 the record's tag,
# $10 the agent's protocol, $11 where to begin to look for an agent port, $12 path, $13 whether it is exact
PUBLISH = f"""
with old as (select * from service where service_id = $1),
     pools as (select $2::text as pool union select pool from old)
select json_build_object(
    'log_id', (select log_id from log_head),
    'known_pool', exists (select from pool where pool = $2),
    'old', (select {SERVICE_JSON} from old s),
    'nodes', (select coalesce(json_agg(json_build_object('node_id', node_id, 'role', role, 'pool', pool,
                  'quarantined', quarantined_at is not null)), '[]'::json)
              from node where node_id = any($7::text[]) and removed_at is null),
    'gateways', {names("n.role = 'gateway' and n.pool in (select pool from pools)")},
    'lacking', (select coalesce(json_agg(json_build_object('node_id', r.node_id, 'tags', r.tags)), '[]'::json)
                from report r join node n using (node_id)
                where n.role = 'gateway' and n.pool = $2 and n.removed_at is null
                  and r.at > clock_timestamp() - interval '{LIVE_S} seconds' and not $9 = any(r.tags)),
    'host_holder', (select service_id from service where host = $4 and host <> '' and service_id <> $1 and path = $12
                    and coalesce(options -> 'http' ->> 'exact', 'false') = $13),
    'host_elsewhere', (select service_id from service where host = $4 and host <> '' and service_id <> $1 and pool <> $2
                       limit 1),
    'freed_host', (select json_build_object('service_id', service_id,
                       'until', to_char(until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                   from freed_host where host = $4 and $4 <> '' and service_id <> $1 and until > clock_timestamp()),
    'port_holders', (select coalesce(json_agg(json_build_object('service_id', s.service_id,
                         'first_port', s.first_port, 'last_port', s.last_port) order by s.first_port), '[]'::json)
                     from service s join pool p using (pool)
                     where p.pool = $2 and s.service_id <> $1 and $3 in ('tcp', 'udp')
                       and s.span && kk_span(p.number, $3, $5, $6)),
    'gateway_ports', (select coalesce(json_agg(distinct substring(e from ':([0-9]+)$')::integer), '[]'::json)
                      from node n, unnest(n.endpoints) e
                      where n.role = 'gateway' and n.pool = $2 and n.removed_at is null),
    'target_holders', (select coalesce(json_agg(json_build_object('address', host(a), 'node_id', n.node_id,
                           'role', n.role)), '[]'::json)
                       from unnest($8::inet[]) a, lateral (
                           select node_id, role from node where removed_at is null and subnet && a
                           union select node_id, role from node
                           where removed_at is null and role = 'gateway' and a = any(endpoint_addresses)) n),
    'agent_port_holders', (select coalesce(json_agg(json_build_object('service_id', t.service_id,
                               'first_port', t.agent_port, 'last_port', t.agent_last_port)), '[]'::json)
                           from service_target t join node n on n.node_id = t.agent
                           where n.node_id = any($7::text[]) and t.service_id <> $1 and $6 > $5
                             and t.span && kk_span(n.number, $10, $5, $6)),
    'free_agent_port', kk_free_port(($7::text[])[1], $10, $1, {AGENT_PORTS[0]}, {AGENT_PORTS[-1]}, $11),
    'heads', (select coalesce(json_object_agg(h.feed, h.feed_seq), '{{}}'::json) from feed_head h
              where h.feed = any(array(select 'feed.pool.' || pool from pools
                                       union all select 'feed.agent.' || a from unnest($7::text[]) a)))
)::text
"""  # noqa: S608  # constants of ours only

UNPUBLISH = f"""
select json_build_object(
    'log_id', (select log_id from log_head),
    'old', (select {SERVICE_JSON} from service s where s.service_id = $1),
    'gateways', {names("n.role = 'gateway' and n.pool in (select pool from service where service_id = $1)")}
)::text
"""  # noqa: S608  # constants of ours only

_publish = msgspec.json.Decoder(PublishContext)
_unpublish = msgspec.json.Decoder(UnpublishContext)


async def see_publish(database: Database, wanted: Wanted) -> PublishContext:
    row = wanted.row
    seen = await database.fetch(
        PUBLISH, row.service_id, row.pool, row.kind, row.host, row.first_port, row.last_port,
        [wanted.target.agent], wanted.literals, wanted_tag(wanted), wanted.proto, first_choice(wanted),
        row.path, "true" if row.options.http.exact else "false",
    )  # fmt: skip
    return _publish.decode(seen[0][0])


async def see_unpublish(database: Database, service_id: str) -> UnpublishContext:
    seen = await database.fetch(UNPUBLISH, service_id)
    return _unpublish.decode(seen[0][0])


async def publish(database: Database, entry: Entry, publication: Publication) -> Written:
    row = publication.row
    service = (
        row.service_id, row.pool, row.kind, row.host, row.path, row.first_port, row.last_port, list(row.sources),
        msgspec.json.encode(row.options).decode(), row.source,
    )  # fmt: skip
    targets = [(t.target_id, t.agent, t.proto, t.agent_port, t.agent_last_port, t.address, t.port) for t in row.targets]
    return Written.of(
        await database.write(
            "select * from kk_publish($1::kk_entry, $2::kk_item[], $3, $4::kk_service, $5::kk_target[])",
            entry, list(publication.items), publication.seen_seq, service, targets,
        )
    )  # fmt: skip


async def unpublish(database: Database, entry: Entry, old: ServiceRow, items: tuple[Item, ...]) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_unpublish($1::kk_entry, $2::kk_item[], $3, $4)",
            entry, list(items), old.updated_seq, old.service_id,
        )
    )  # fmt: skip
