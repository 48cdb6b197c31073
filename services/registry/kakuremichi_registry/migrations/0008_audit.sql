-- The time machine and the audit. Nothing here is truth: all of it is made from event_log, and may be made again.

-- The state after row `seq`, folded: a place to begin at that is nearer than row 1.
create table state_snapshot (
    seq  bigint primary key,
    hash bytea not null,        -- of that row
    at   timestamptz not null,  -- of that row
    body bytea not null,        -- kakuremichi.audit.state.dump, compressed with zlib
    made_at timestamptz not null default clock_timestamp()
);

-- Roots of whole runs of 1,024 rows in the tree of the log (RFC 6962): run n holds the rows n * 1024 + 1 and on.
create table log_run (
    number bigint primary key,
    root   bytea not null check (length(root) = 32)
);

-- What the feed key said about the first `size` rows.
create table checkpoint (
    size    bigint primary key,
    at      timestamptz not null,
    signed  bytea not null -- Signed Checkpoint, as published
);

-- Gateways that saw that a checkpoint continues the one which they saw before.
create table checkpoint_witness (
    size        bigint not null references checkpoint,
    node_id     text not null collate "C",
    certificate bytea not null, -- Signed Certificate: by whose key, then
    signature   bytea not null, -- one Signature
    at          timestamptz not null default clock_timestamp(),
    primary key (size, node_id)
);
create index checkpoint_witness_node on checkpoint_witness (node_id, size);

-- The last row that is not later than `moment`; 0 if all are. Times follow the sequence, so halving finds it.
create function kk_seq_at(moment timestamptz) returns bigint language plpgsql stable as $$
declare
    low    bigint := coalesce((select min(seq) from event_log), 1) - 1;
    high   bigint := coalesce((select max(seq) from event_log), 0);
    middle bigint;
begin
    while low < high loop
        middle := (low + high + 1) / 2;
        if (select at from event_log where seq = middle) <= moment then low := middle; else high := middle - 1; end if;
    end loop;
    return low;
end $$;

-- As before, and who is enrolled anew waits for no signature that its former self had waited for.
create or replace function kk_refuse_revoked() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.revoked_at is not null and new.removed_at is null then perform kk_stale(); end if;
    if exists (select from revoked_identity r where r.identity_key = new.identity_key) then perform kk_stale(); end if;
    new.announced_hash := null;
    new.quarantined_at := null;
    new.pending := false;
    return new;
end $$;
