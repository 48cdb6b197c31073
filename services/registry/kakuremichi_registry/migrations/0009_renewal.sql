-- The next certificate of a node whose present one ends in some time. The node fetches it and then announces its key
-- with it: only then it takes the other's place, so a node that has not heard of it yet is never locked out.
create table node_renewal (
    node_id     text primary key references node,
    serial      integer not null,
    certificate bytea not null,   -- Signed Certificate
    complete    boolean not null, -- false: it waits for trust keys that do not lie on this server
    proposed_at timestamptz not null default clock_timestamp()
);

-- `seen_next` is the serial of the one that stood here and is over too, 0 if there was none.
create function kk_renew(
    entry kk_entry, for_node text, seen_serial integer, seen_next integer, next_serial integer, signed bytea,
    is_complete boolean
) returns kk_written language plpgsql as $$
begin
    perform 1 from node
        where node_id = for_node and removed_at is null and not pending and serial = seen_serial for update;
    if not found then perform kk_stale(); end if;
    delete from node_renewal where node_id = for_node and serial = seen_next;
    insert into node_renewal (node_id, serial, certificate, complete)
        values (for_node, next_serial, signed, is_complete) on conflict do nothing;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

-- As kk_grant.
create function kk_grant_renewal(entry kk_entry, for_node text, seen bytea, signed bytea, is_complete boolean)
returns kk_written language plpgsql as $$
begin
    update node_renewal set certificate = signed, complete = is_complete
        where node_id = for_node and not complete and certificate = seen;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

-- Whoever announces with the next certificate has it: once that is accepted it is the node's.
create function kk_accept_renewed_key(
    entry kk_entry, items kk_item[], by_node text, for_serial integer, new_epoch bigint, key bytea,
    announced bytea, at_endpoints text[], at_addresses inet[], body_hash bytea, follows bytea[]
) returns kk_key_outcome language plpgsql as $$
declare
    held   node;
    fresh  node_renewal;
    answer kk_key_outcome;
begin
    select * into held from node where node_id = by_node and removed_at is null for update;
    select * into fresh from node_renewal where node_id = held.node_id and serial = for_serial and complete;
    update node set certificate = fresh.certificate, serial = fresh.serial where node_id = fresh.node_id;
    answer := kk_accept_key(entry, items, by_node, for_serial, new_epoch, key, announced, at_endpoints, at_addresses,
                            body_hash, follows);
    if fresh.node_id is not null and answer.outcome = 'accepted' then
        delete from node_renewal where node_id = by_node;
    elsif fresh.node_id is not null then
        update node set certificate = held.certificate, serial = held.serial where node_id = by_node;
    end if;
    return answer;
end $$;

-- Serials never repeat: whoever is enrolled under this name next gets a higher one than was ever signed for it.
create table spent_serial (
    node_id text primary key,
    serial  integer not null
);

create function kk_end_renewal() returns trigger language plpgsql as $$
begin
    with ended as (delete from node_renewal where node_id = old.node_id returning node_id, serial)
    insert into spent_serial select * from ended
        on conflict (node_id) do update set serial = greatest(spent_serial.serial, excluded.serial);
    return null;
end $$;

create trigger node_renewal_ended after update of removed_at on node
    for each row when (old.removed_at is null and new.removed_at is not null) execute function kk_end_renewal();
