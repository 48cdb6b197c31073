-- Retention: the log lies in partitions of whole numbers of rows, and the oldest of them may leave this database.

-- Every partition is a run of leaves that the tree of the log has as one inner node: a power of two.
create function kk_log_partition_rows() returns bigint language sql immutable as $$ select 65536::bigint $$;

-- Makes the partition that row `row_seq` belongs to, unless it is there. Named after its first row.
create function kk_log_partition(row_seq bigint) returns void language plpgsql as $$
declare
    first bigint := (row_seq - 1) / kk_log_partition_rows() * kk_log_partition_rows() + 1;
    name  text := 'event_log_' || first;
begin
    if to_regclass(name) is not null then return; end if;
    -- Attaching lets others read and write meanwhile; "create table … partition of" does not.
    execute format('create table %I (like event_log including all)', name);
    execute format('alter table event_log attach partition %I for values from (%s) to (%s)',
                   name, first, first + kk_log_partition_rows());
end $$;

-- What there is becomes the first partition, however large, up to the end of the last one that it would have begun.
alter table event_log rename to event_log_1;
alter index event_log_pkey rename to event_log_1_pkey;
create table event_log (like event_log_1 including all) partition by range (seq);
do $$
declare
    newest bigint := (select coalesce(max(seq), 1) from event_log_1);
    next   bigint := ((newest - 1) / kk_log_partition_rows() + 1) * kk_log_partition_rows() + 1;
begin
    execute format('alter table event_log attach partition event_log_1 for values from (1) to (%s)', next);
    perform kk_log_partition(next);
end $$;

create view log_partition as
select c.relname::text as name, bounds[1]::bigint as first_row, bounds[2]::bigint - 1 as last_row
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
cross join regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \('(\d+)'\) TO \('(\d+)'\)$$) as bounds
where i.inhparent = 'event_log'::regclass;

-- What is left of rows that were exported and have left. Unlike snapshots of states this is truth: nothing else has it.
create table log_cut (
    seq           bigint primary key,                              -- the last row that has left
    first_row     bigint not null,                                 -- of those that left with it
    hash          bytea not null check (length(hash) = 32),        -- of row `seq`
    at            timestamptz not null,                            -- of row `seq`
    roots         bytea[] not null,                                -- of the perfect subtrees over rows 1 to `seq`
    export_sha256 bytea not null check (length(export_sha256) = 32),
    state         bytea,                                           -- as in state_snapshot; of the newest cut only
    event_seq     bigint not null,                                 -- the row that says so
    cut_at        timestamptz not null default clock_timestamp()
);

-- The entries of the tree that have left with their rows, 32 bytes each: gateways ask for proofs from where they are.
create table log_cut_run (
    number  bigint primary key, -- as in log_run
    entries bytea not null
);

-- All or nothing: the fact, what is kept, and the partitions that go. Readers of the log wait for the last step, so
-- the lock on the log's head, which writers wait for, is taken first, and neither for longer than a moment.
create function kk_retire_log(entry kk_entry, going text[], cut log_cut) returns kk_written language plpgsql as $$
declare
    written kk_written;
    name    text;
begin
    perform set_config('lock_timeout', '500', true);
    written := kk_commit(entry, '{}');
    if (select coalesce(max(seq), 0) from log_cut) <> cut.first_row - 1
        or (select hash from event_log where seq = cut.seq) is distinct from cut.hash then perform kk_stale(); end if;
    foreach name in array going loop
        execute format('alter table event_log detach partition %I', name);
        execute format('drop table %I', name);
    end loop;
    if (select min(seq) from event_log) is distinct from cut.seq + 1 then perform kk_stale(); end if;
    delete from checkpoint_witness where size < cut.seq;
    delete from checkpoint where size < cut.seq;
    delete from state_snapshot where seq <= cut.seq;
    update log_cut set state = null;
    insert into log_cut (seq, first_row, hash, at, roots, export_sha256, state, event_seq)
        values (cut.seq, cut.first_row, cut.hash, cut.at, cut.roots, cut.export_sha256, cut.state, written.seq);
    return written;
end $$;

-- As before, and the partition after the next begun one is made in time.
create or replace function kk_commit(entry kk_entry, items kk_item[]) returns kk_written language plpgsql as $$
declare
    log        log_head;
    prev       bytea;
    moment     timestamptz;
    feed_name  text;
    position   bigint;
    written    kk_written;
begin
    select * into strict log from log_head for update;
    moment := clock_timestamp(); -- under the lock, so that times follow the sequence
    prev := log.hash;
    log.seq := log.seq + 1;
    log.hash := kk_log_hash(prev, log.seq, entry.topic, entry.actor, moment, entry.fact);
    written := (log.log_id, log.seq, '{}'::text[], '{}'::bigint[]);
    for feed_name in select distinct i.feed collate "C" as feed from unnest(items) i order by feed loop
        select a.item_seq, a.feed_seq into strict log.item_seq, position
            from kk_append(log, feed_name, items, entry.traceparent, log.item_seq) a;
        written.feeds := written.feeds || feed_name;
        written.feed_seqs := written.feed_seqs || position;
    end loop;
    update log_head set seq = log.seq, item_seq = log.item_seq, hash = log.hash;
    if log.seq % kk_log_partition_rows() = 1 then
        perform kk_log_partition(log.seq), kk_log_partition(log.seq + kk_log_partition_rows());
    end if;
    insert into event_log values
        (log.seq, prev, log.hash, entry.topic, entry.actor, moment, entry.fact, entry.traceparent);
    if entry.idempotency_key <> '' then
        delete from idempotency i where i.actor = entry.actor and i.key = entry.idempotency_key
            and i.at < moment - interval '24 hours';
        insert into idempotency values (entry.actor, entry.idempotency_key, entry.request_hash, entry.answer,
                                        log.seq, written.feeds, written.feed_seqs, moment);
    end if;
    perform pg_notify('kk_log', log.seq::text);
    return written;
end $$;
