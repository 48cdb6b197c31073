-- Nodes whose certificate waits for trust keys that do not lie on this server. They have their name and their address;
-- their certificate is a proposal with too few signatures, and until it has enough they are let in nowhere.

alter table node add column pending boolean not null default false;

create function kk_enrol_pending(entry kk_entry, hash bytea, seen_enrolments bigint, fresh kk_node)
returns kk_written language plpgsql as $$
declare
    written kk_written;
begin
    written := kk_enrol(entry, hash, seen_enrolments, fresh);
    update node set pending = true where node_id = fresh.node_id;
    return written;
end $$;

-- `seen` is the certificate that was looked at: who is slower decides again.
create function kk_grant(entry kk_entry, for_node text, seen bytea, signed bytea, complete boolean)
returns kk_written language plpgsql as $$
begin
    update node set certificate = signed, pending = not complete
        where node_id = for_node and removed_at is null and pending and certificate = seen;
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;
