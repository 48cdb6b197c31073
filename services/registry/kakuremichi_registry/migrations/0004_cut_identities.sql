-- Identities that may not be on the bus any more. A node that is enrolled anew has another row than its former self,
-- so what was cut off is kept here: until the last JWT of that key has expired.
create table cut_identity (
    identity_key bytea primary key check (length(identity_key) = 32),
    cut_at       timestamptz not null default clock_timestamp()
);

create function kk_cut_identity() returns trigger language plpgsql as $$
begin
    insert into cut_identity (identity_key) values (old.identity_key)
        on conflict (identity_key) do update set cut_at = excluded.cut_at;
    return null;
end $$;

create trigger node_removed after update of removed_at on node
    for each row when (old.removed_at is null and new.removed_at is not null) execute function kk_cut_identity();
