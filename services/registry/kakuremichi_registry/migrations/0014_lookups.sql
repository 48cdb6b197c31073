-- Look-ups that read a whole table, because a plan for every caller could not take the index that is there.

-- Columns that name a service or a node compare as those names do: an index of another collation serves no join.
alter table service_target
    alter column service_id type text collate "C",
    alter column agent type text collate "C";

-- The index of host names leaves out services without one, and is of the usual collation. The caller's, which a
-- function takes over from its arguments, is that of ids.
create or replace function kk_free_host(freed text, by_service text) returns void language sql as $$
    insert into freed_host
    select freed, by_service, clock_timestamp() + interval '24 hours'
        where not exists (
            select from service where host = freed collate "default" and host <> '' and service_id <> by_service
        )
    on conflict (host) do update set service_id = excluded.service_id, until = excluded.until
$$;

-- As before, but without a join of nodes with what `unnest` says, which is planned as if it were long.
create or replace function kk_publish(
    entry kk_entry, items kk_item[], seen_seq bigint, wanted kk_service, targets kk_target[]
) returns kk_written language plpgsql as $$
declare
    old     service;
    written kk_written;
    ports   int8range;
begin
    perform 1 from node where node_id = any(array(select agent from unnest(targets))) and removed_at is null for share;
    if (select count(*) from node where node_id = any(array(select agent from unnest(targets))) and removed_at is null)
        <> (select count(distinct agent) from unnest(targets)) then perform kk_stale(); end if;
    select * into old from service where service_id = wanted.service_id for update;
    if coalesce(old.updated_seq, 0) <> seen_seq then perform kk_stale(); end if;
    if wanted.kind in ('tcp', 'udp') then
        select kk_span(number, wanted.kind, wanted.first_port, wanted.last_port) into ports
            from pool where pool = wanted.pool;
    end if;
    if exists (select from freed_host f where f.host = wanted.host and f.service_id <> wanted.service_id
               and f.until > clock_timestamp()) then perform kk_stale(); end if;
    insert into service (service_id, pool, kind, host, path, first_port, last_port, sources, span, options, source)
        values (wanted.service_id, wanted.pool, wanted.kind, wanted.host, wanted.path, wanted.first_port,
                wanted.last_port, wanted.sources, ports, wanted.options, wanted.source)
        on conflict (service_id) do update
        set pool = excluded.pool, kind = excluded.kind, host = excluded.host, path = excluded.path,
            first_port = excluded.first_port, last_port = excluded.last_port, sources = excluded.sources,
            span = excluded.span, options = excluded.options, source = excluded.source;
    delete from service_target t where t.service_id = wanted.service_id;
    insert into service_target
        select t.target_id, wanted.service_id, t.agent, t.proto, t.agent_port, t.agent_last_port, t.address, t.port,
               (select kk_span(n.number, t.proto, t.agent_port, t.agent_last_port) from node n where n.node_id = t.agent)
        from unnest(targets) t;
    written := kk_commit(entry, items);
    perform kk_free_host(old.host, old.service_id) where old.host <> '' and old.host <> wanted.host;
    delete from freed_host where host = wanted.host;
    update service set updated_seq = written.seq where service_id = wanted.service_id;
    return written;
end $$;
