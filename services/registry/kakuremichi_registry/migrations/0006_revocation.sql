-- A node may be cut off for ever (revoked), or suspected of having two holders (quarantined).
-- A revoked node counts as removed everywhere, but its row and its name stay as they are until somebody removes it.
alter table node
    add column revoked_at     timestamptz,
    add column quarantined_at timestamptz,
    add column announced_hash bytea check (length(announced_hash) = 32), -- SHA-256 of the body that stands
    add check (revoked_at is null or removed_at is not null);

-- An identity that was revoked never comes back, under whatever name; nothing is ever deleted here.
create table revoked_identity (
    identity_key bytea primary key check (length(identity_key) = 32),
    node_id      text not null,
    revoked_at   timestamptz not null default clock_timestamp()
);

-- Whoever decided to enrol saw neither of these, or decides again and sees them then.
create function kk_refuse_revoked() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.revoked_at is not null and new.removed_at is null then perform kk_stale(); end if;
    if exists (select from revoked_identity r where r.identity_key = new.identity_key) then perform kk_stale(); end if;
    new.announced_hash := null;
    new.quarantined_at := null;
    return new;
end $$;

create trigger node_enrolled_first before insert on node for each row execute function kk_refuse_revoked();
create trigger node_enrolled_anew before update of removed_at on node
    for each row when (old.removed_at is not null and new.removed_at is null) execute function kk_refuse_revoked();

create function kk_revoke_node(
    entry kk_entry, items kk_item[], unwanted text, seen_serial integer, seen_epoch bigint, seen_services text[]
) returns kk_written language plpgsql as $$
declare
    written kk_written;
begin
    insert into revoked_identity (identity_key, node_id)
        select identity_key, node_id from node where node_id = unwanted and removed_at is null
        on conflict do nothing;
    written := kk_remove_node(entry, items, unwanted, seen_serial, seen_epoch, seen_services);
    update node set revoked_at = removed_at where node_id = unwanted;
    return written;
end $$;

-- The name of a revoked node is given back; its identity is not.
create function kk_forget_revoked(entry kk_entry, unwanted text) returns kk_written language plpgsql as $$
begin
    update node set revoked_at = null where node_id = unwanted and revoked_at is not null;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

create function kk_rotate_node(entry kk_entry, items kk_item[], asked text, seen_epoch bigint)
returns kk_written language plpgsql as $$
begin
    perform 1 from node where node_id = asked and removed_at is null and epoch = seen_epoch for share;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, items);
end $$;

create function kk_quarantine_node(entry kk_entry, suspect text, seen_epoch bigint)
returns kk_written language plpgsql as $$
begin
    update node set quarantined_at = clock_timestamp()
        where node_id = suspect and removed_at is null and quarantined_at is null and epoch = seen_epoch;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

-- Which of two holders is the right one is known to people only: whoever announces next begins a new chain.
create function kk_release_node(entry kk_entry, suspect text) returns kk_written language plpgsql as $$
begin
    update node set quarantined_at = null, announced_hash = null
        where node_id = suspect and removed_at is null and quarantined_at is not null;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

drop function kk_accept_key(kk_entry, kk_item[], text, integer, bigint, bytea, bytea, text[], inet[]);

-- As before, and now an announcement has to follow the one that stands: its hash is among `follows`.
create function kk_accept_key(
    entry kk_entry, items kk_item[], by_node text, for_serial integer, new_epoch bigint, key bytea,
    announced bytea, at_endpoints text[], at_addresses inet[], body_hash bytea, follows bytea[]
) returns kk_key_outcome language plpgsql as $$
declare
    held   node;
    answer kk_key_outcome;
begin
    select * into held from node where node_id = by_node and removed_at is null for update;
    if not found or held.serial <> for_serial then
        return ('unknown-node', 0, null)::kk_key_outcome;
    end if;
    if held.quarantined_at is not null then
        return ('quarantined', held.epoch, null)::kk_key_outcome;
    end if;
    if held.announcement = announced then
        return ('same', held.epoch, null)::kk_key_outcome;
    end if;
    if new_epoch < held.epoch then
        return ('not-newer', held.epoch, null)::kk_key_outcome;
    end if;
    if held.announced_hash is not null
        and (new_epoch = held.epoch or not held.announced_hash = any(follows)) then
        return ('conflict', held.epoch, null)::kk_key_outcome;
    end if;
    if new_epoch = held.epoch then
        return ('not-newer', held.epoch, null)::kk_key_outcome;
    end if;
    if held.public_key is distinct from key then
        insert into node_key_history (public_key, node_id, epoch) values (key, by_node, new_epoch)
            on conflict do nothing;
        if not found then
            return ('held', held.epoch, null)::kk_key_outcome;
        end if;
    end if;
    update node set epoch = new_epoch, public_key = key, announcement = announced, announced_hash = body_hash,
        endpoints = at_endpoints, endpoint_addresses = at_addresses where node_id = by_node;
    answer := ('accepted', new_epoch, null)::kk_key_outcome;
    answer.written := kk_commit(entry, items);
    return answer;
end $$;
