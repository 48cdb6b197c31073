-- Services by path beside services by host, and what a service may ask for (kakuremichi.model.options).

-- `json` and not `jsonb`: the text stays as it was signed and hashed.
alter table service add column options json not null default '{}';

drop index service_host;
create unique index service_place on service (host, path, coalesce(options -> 'http' ->> 'exact', 'false'))
    where host <> '';

alter type kk_service add attribute options json;

-- A host name begins to rest when the last service of that name is gone.
create or replace function kk_free_host(freed text, by_service text) returns void language sql as $$
    insert into freed_host
    select freed, by_service, clock_timestamp() + interval '24 hours'
        where not exists (select from service where host = freed and service_id <> by_service)
    on conflict (host) do update set service_id = excluded.service_id, until = excluded.until
$$;

create or replace function kk_publish(
    entry kk_entry, items kk_item[], seen_seq bigint, wanted kk_service, targets kk_target[]
) returns kk_written language plpgsql as $$
declare
    old     service;
    written kk_written;
    ports   int8range;
begin
    perform 1 from node where node_id in (select agent from unnest(targets)) and removed_at is null for share;
    if (select count(*) from node where node_id in (select agent from unnest(targets)) and removed_at is null)
        <> (select count(distinct agent) from unnest(targets)) then perform kk_stale(); end if;
    select * into old from service where service_id = wanted.service_id for update;
    if coalesce(old.updated_seq, 0) <> seen_seq then perform kk_stale(); end if;
    if wanted.kind in ('tcp', 'udp') then
        select kk_span(number, wanted.kind, wanted.first_port, wanted.last_port) into ports
            from pool where pool = wanted.pool;
    end if;
    perform kk_free_host(old.host, old.service_id) where old.host <> '' and old.host <> wanted.host;
    if exists (select from freed_host f where f.host = wanted.host and f.service_id <> wanted.service_id
               and f.until > clock_timestamp()) then perform kk_stale(); end if;
    delete from freed_host where host = wanted.host;
    insert into service (service_id, pool, kind, host, path, first_port, last_port, sources, span, options)
        values (wanted.service_id, wanted.pool, wanted.kind, wanted.host, wanted.path, wanted.first_port,
                wanted.last_port, wanted.sources, ports, wanted.options)
        on conflict (service_id) do update
        set pool = excluded.pool, kind = excluded.kind, host = excluded.host, path = excluded.path,
            first_port = excluded.first_port, last_port = excluded.last_port, sources = excluded.sources,
            span = excluded.span, options = excluded.options;
    delete from service_target t where t.service_id = wanted.service_id;
    insert into service_target
        select t.target_id, wanted.service_id, t.agent, t.proto, t.agent_port, t.agent_last_port, t.address, t.port,
               kk_span(n.number, t.proto, t.agent_port, t.agent_last_port)
        from unnest(targets) t join node n on n.node_id = t.agent;
    written := kk_commit(entry, items);
    update service set updated_seq = written.seq where service_id = wanted.service_id;
    return written;
end $$;
