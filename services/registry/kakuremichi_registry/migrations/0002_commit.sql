-- One write is one transaction, and every write ends in kk_commit: it gives the log its next row and the feeds
-- their next items. The lock on log_head makes sequence order the order of commits, with no number missing.

create type kk_entry as (
    topic           text,
    actor           text,
    fact            text,
    traceparent     text,
    idempotency_key text,
    request_hash    bytea,
    answer          bytea
);
create type kk_item as (feed text, path text, gone boolean, record bytea);
create type kk_written as (log_id text, seq bigint, feeds text[], feed_seqs bigint[]);

-- MessagePack str: fixstr up to 31 bytes, str 8 above; no name of ours has more than 255 bytes.
create function kk_msgpack_str(value text) returns bytea language sql immutable strict parallel safe as $$
    select case when octet_length(value) < 32 then set_byte('\x00'::bytea, 0, 160 + octet_length(value))
                else '\xd9'::bytea || set_byte('\x00'::bytea, 0, octet_length(value)) end
           || convert_to(value, 'UTF8')
$$;

-- 32 bytes, big endian, as a number: four steps of 60 bits and one of 16.
create function kk_uint256(value bytea) returns numeric language plpgsql immutable strict parallel safe as $$
declare
    digits text := encode(value, 'hex');
begin
    return (((('x' || substr(digits, 1, 15))::bit(60)::bigint::numeric * 1152921504606846976
            + ('x' || substr(digits, 16, 15))::bit(60)::bigint) * 1152921504606846976
            + ('x' || substr(digits, 31, 15))::bit(60)::bigint) * 1152921504606846976
            + ('x' || substr(digits, 46, 15))::bit(60)::bigint) * 65536
            + ('x' || substr(digits, 61, 4))::bit(16)::integer;
end $$;

create function kk_prefixed(value text) returns bytea language sql immutable strict parallel safe as $$
    select int4send(octet_length(value)) || convert_to(value, 'UTF8')
$$;

create function kk_instant(at timestamptz) returns text language sql stable strict parallel safe as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- The chain of the log: SHA-256(0x00, previous hash, sequence, then topic, actor, time and fact with their lengths).
create function kk_log_hash(prev bytea, seq bigint, topic text, actor text, at timestamptz, fact text) returns bytea
language sql stable strict parallel safe as $$
    select sha256('\x00'::bytea || prev || int8send(seq) || kk_prefixed(topic) || kk_prefixed(actor)
                  || kk_prefixed(kk_instant(at)) || kk_prefixed(fact))
$$;

-- The bytes that are signed and sent: MessagePack of [log_id, feed, feed_seq, prev_hash, record].
create function kk_item_body(log_id text, feed text, feed_seq bigint, prev bytea, record bytea) returns bytea
language sql immutable strict parallel safe as $$
    select '\x95'::bytea || kk_msgpack_str(log_id) || kk_msgpack_str(feed) || '\xcf'::bytea || int8send(feed_seq)
           || '\xc420'::bytea || prev || record
$$;

-- Appends the items of one feed. What is live already, byte for byte, and the tombstone of what is not live
-- say nothing new and are left out.
create function kk_append(log log_head, feed_name text, items kk_item[], traceparent text, inout item_seq bigint, out feed_seq bigint)
language plpgsql as $$
declare
    head feed_head;
    item kk_item;
    old  feed_live;
    body bytea;
    modulus constant numeric := 115792089237316195423570985008687907853269984665640564039457584007913129639936; -- 2^256
begin
    insert into feed_head (feed) values (feed_name) on conflict do nothing;
    select * into strict head from feed_head where feed = feed_name for update;
    foreach item in array items loop
        continue when item.feed <> feed_name;
        select * into old from feed_live l where l.feed = item.feed and l.path = item.path;
        if found then
            continue when not item.gone and substr(old.body, length(old.body) - length(item.record) + 1) = item.record;
            head.count := head.count - 1;
            head.sum := mod(head.sum + modulus - kk_uint256(old.hash), modulus);
        else
            continue when item.gone;
        end if;
        item_seq := item_seq + 1;
        head.feed_seq := head.feed_seq + 1;
        body := kk_item_body(log.log_id, item.feed, head.feed_seq, head.hash, item.record);
        head.hash := sha256(body);
        insert into feed_item values (item_seq, item.feed, head.feed_seq, item.path, item.gone, body, head.hash, traceparent);
        if item.gone then
            delete from feed_live l where l.feed = item.feed and l.path = item.path;
        else
            head.count := head.count + 1;
            head.sum := mod(head.sum + kk_uint256(head.hash), modulus);
            insert into feed_live as l values (item.feed, item.path, head.feed_seq, body, head.hash)
                on conflict (feed, path) do update
                set feed_seq = excluded.feed_seq, body = excluded.body, hash = excluded.hash;
        end if;
    end loop;
    update feed_head h set feed_seq = head.feed_seq, hash = head.hash, count = head.count, sum = head.sum
        where h.feed = feed_name;
    feed_seq := head.feed_seq;
end $$;

create function kk_commit(entry kk_entry, items kk_item[]) returns kk_written language plpgsql as $$
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
