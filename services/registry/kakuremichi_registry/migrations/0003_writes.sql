-- One function per write. Each checks that what its caller decided upon still holds (KK001: decide again), changes
-- the business rows and calls kk_commit, whose lock is thereby taken last.

-- (owner, protocol, ports) as one range of numbers, so that plain GiST keeps ranges of one owner apart.
create function kk_span(owner integer, proto text, first_port integer, last_port integer) returns int8range
language sql immutable strict parallel safe as $$
    select int8range(base + first_port, base + last_port, '[]')
    from (select (owner::bigint * 2 + case proto when 'udp' then 1 else 0 end) * 65536 as base) b
$$;

-- The first port from `choice` on, around the end of `first` to `last`, that no service but `own` holds at the agent.
create function kk_free_port(
    at_agent text, proto text, own text, first_port integer, last_port integer, choice integer
) returns integer language plpgsql stable as $$
declare
    base   bigint;
    at     bigint := choice;
    turned boolean := false;
    held   int8range;
begin
    select lower(kk_span(number, proto, 0, 0)) into base from node where node_id = at_agent;
    while base is not null loop
        if at > last_port then
            exit when turned;
            turned := true;
            at := first_port;
        end if;
        exit when turned and at >= choice;
        select t.span into held from service_target t where t.span @> (base + at) and t.service_id <> own;
        if not found then
            return at;
        end if;
        at := upper(held) - base; -- an upper end is not part of its range
    end loop;
    return null;
end $$;

create function kk_stale() returns void language plpgsql as $$
begin
    raise exception 'what was decided upon has changed' using errcode = 'KK001';
end $$;

create function kk_create_token(
    entry kk_entry, hash bytea, token_id text, token_role text, for_node text, in_pool text, until timestamptz
) returns kk_written language plpgsql as $$
begin
    insert into pool (pool) values (in_pool) on conflict do nothing;
    insert into join_token (secret_hash, token_id, role, node_id, pool, expires_at)
        values (hash, token_id, token_role, for_node, in_pool, until);
    return kk_commit(entry, '{}');
end $$;

create type kk_node as (
    node_id text, role text, pool text, slot smallint, subnet cidr, identity_key bytea, sealing_key bytea,
    certificate bytea, serial integer, endpoints text[], endpoint_addresses inet[], networks cidr[]
);

create function kk_enrol(entry kk_entry, hash bytea, seen_enrolments bigint, fresh kk_node)
returns kk_written language plpgsql as $$
begin
    update join_token set used_at = clock_timestamp()
        where secret_hash = hash and used_at is null and expires_at > clock_timestamp();
    if not found then
        raise exception 'the join token is not open' using errcode = 'KK002';
    end if;
    update deployment set enrolments = enrolments + 1 where enrolments = seen_enrolments;
    if not found then perform kk_stale(); end if;
    insert into node as n (node_id, role, pool, slot, subnet, identity_key, sealing_key, certificate, serial,
                           endpoints, endpoint_addresses, networks)
        values (fresh.node_id, fresh.role, fresh.pool, fresh.slot, fresh.subnet, fresh.identity_key,
                fresh.sealing_key, fresh.certificate, fresh.serial, fresh.endpoints, fresh.endpoint_addresses,
                fresh.networks)
        on conflict (node_id) do update
        set role = excluded.role, pool = excluded.pool, slot = excluded.slot, subnet = excluded.subnet,
            identity_key = excluded.identity_key, sealing_key = excluded.sealing_key,
            certificate = excluded.certificate, serial = excluded.serial, endpoints = excluded.endpoints,
            endpoint_addresses = excluded.endpoint_addresses, networks = excluded.networks,
            announcement = null, public_key = null, enrolled_at = clock_timestamp(), removed_at = null
        where n.removed_at is not null and n.serial < excluded.serial;
    if not found then perform kk_stale(); end if;
    delete from freed_slot f where f.pool = fresh.pool and f.slot = fresh.slot;
    delete from report r where r.node_id = fresh.node_id;
    insert into feed_head (feed)
        values ('feed.pool.' || fresh.pool), ('feed.fleet.' || fresh.pool) on conflict do nothing;
    return kk_commit(entry, '{}');
end $$;

create type kk_key_outcome as (outcome text, epoch bigint, written kk_written);

-- Uniqueness over all time and the order of epochs are decided here, under the lock of the node's row.
create function kk_accept_key(
    entry kk_entry, items kk_item[], by_node text, for_serial integer, new_epoch bigint, key bytea,
    announced bytea, at_endpoints text[], at_addresses inet[]
) returns kk_key_outcome language plpgsql as $$
declare
    held    node;
    holder  text;
    answer  kk_key_outcome;
begin
    select * into held from node where node_id = by_node and removed_at is null for update;
    if not found or held.serial <> for_serial then
        return ('unknown-node', 0, null)::kk_key_outcome;
    end if;
    if held.announcement = announced then
        return ('same', held.epoch, null)::kk_key_outcome;
    end if;
    if new_epoch <= held.epoch then
        return ('not-newer', held.epoch, null)::kk_key_outcome;
    end if;
    if held.public_key is distinct from key then
        insert into node_key_history (public_key, node_id, epoch) values (key, by_node, new_epoch)
            on conflict do nothing;
        if not found then
            return ('held', held.epoch, null)::kk_key_outcome;
        end if;
    end if;
    update node set epoch = new_epoch, public_key = key, announcement = announced,
        endpoints = at_endpoints, endpoint_addresses = at_addresses where node_id = by_node;
    answer := ('accepted', new_epoch, null)::kk_key_outcome;
    answer.written := kk_commit(entry, items);
    return answer;
end $$;

create type kk_target as (
    target_id text, agent text, proto text, agent_port integer, agent_last_port integer, address text, port integer
);

create type kk_service as (
    service_id text, pool text, kind text, host text, path text, first_port integer, last_port integer, sources text[]
);

create function kk_publish(entry kk_entry, items kk_item[], seen_seq bigint, wanted kk_service, targets kk_target[])
returns kk_written language plpgsql as $$
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
    insert into service values (wanted.service_id, wanted.pool, wanted.kind, wanted.host, wanted.path,
                                wanted.first_port, wanted.last_port, wanted.sources, 0, ports)
        on conflict (service_id) do update
        set pool = excluded.pool, kind = excluded.kind, host = excluded.host, path = excluded.path,
            first_port = excluded.first_port, last_port = excluded.last_port, sources = excluded.sources,
            span = excluded.span;
    delete from service_target t where t.service_id = wanted.service_id;
    insert into service_target
        select t.target_id, wanted.service_id, t.agent, t.proto, t.agent_port, t.agent_last_port, t.address, t.port,
               kk_span(n.number, t.proto, t.agent_port, t.agent_last_port)
        from unnest(targets) t join node n on n.node_id = t.agent;
    written := kk_commit(entry, items);
    update service set updated_seq = written.seq where service_id = wanted.service_id;
    return written;
end $$;

create function kk_free_host(freed text, by_service text) returns void language sql as $$
    insert into freed_host values (freed, by_service, clock_timestamp() + interval '24 hours')
    on conflict (host) do update set service_id = excluded.service_id, until = excluded.until
$$;

create function kk_unpublish(entry kk_entry, items kk_item[], seen_seq bigint, unwanted text)
returns kk_written language plpgsql as $$
declare
    old service;
begin
    delete from service where service_id = unwanted returning * into old;
    if not found or old.updated_seq <> seen_seq then perform kk_stale(); end if;
    perform kk_free_host(old.host, old.service_id) where old.host <> '';
    return kk_commit(entry, items);
end $$;

create function kk_remove_node(
    entry kk_entry, items kk_item[], unwanted text, seen_serial integer, seen_epoch bigint, seen_services text[]
) returns kk_written language plpgsql as $$
declare
    gone    node;
    written kk_written;
begin
    update node set removed_at = clock_timestamp()
        where node_id = unwanted and removed_at is null and serial = seen_serial and epoch = seen_epoch
        returning * into gone;
    if not found then perform kk_stale(); end if;
    if seen_services is distinct from coalesce(
        (select array_agg(distinct service_id order by service_id) from service_target where agent = unwanted), '{}'
    ) then perform kk_stale(); end if;
    delete from service_target where agent = unwanted;
    if gone.role = 'gateway' then
        insert into freed_slot (pool, slot) values (gone.pool, gone.slot)
            on conflict (pool, slot) do update set freed_at = excluded.freed_at;
    end if;
    delete from report where node_id = unwanted;
    written := kk_commit(entry, items);
    update service set updated_seq = written.seq where service_id = any(seen_services);
    return written;
end $$;
