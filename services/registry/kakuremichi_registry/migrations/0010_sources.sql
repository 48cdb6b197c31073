-- Which declarative file a service comes from, and by which event a node was changed last.

alter table service add column source text not null default ''; -- '' is nobody's: it was published by hand
alter type kk_service add attribute source text;

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
               kk_span(n.number, t.proto, t.agent_port, t.agent_last_port)
        from unnest(targets) t join node n on n.node_id = t.agent;
    written := kk_commit(entry, items);
    update service set updated_seq = written.seq where service_id = wanted.service_id;
    return written;
end $$;

alter table node add column updated_seq bigint not null default 0;
update node set updated_seq = (select coalesce(max(seq), 0) from log_head); -- of those before, no more is known

-- At the end of the transaction, when its event has its number. What changed nothing that the log tells, such as an
-- announcement that was refused in the end, leaves the number as it is.
create function kk_number_node() returns trigger language plpgsql as $$
begin
    update node n set updated_seq = h.seq from log_head h
        where n.node_id = new.node_id and h.xmin = pg_current_xact_id()::xid;
    return null;
end $$;

create constraint trigger node_changed after insert or update on node deferrable initially deferred
    for each row when (pg_trigger_depth() = 0) execute function kk_number_node();
