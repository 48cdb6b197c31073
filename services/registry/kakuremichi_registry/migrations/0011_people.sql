-- People who sign in to the portal. Not part of the fleet's state: the log says what they did, never a password.

create table account (
    name       text primary key collate "C",
    label      text not null,
    role       text not null check (role in ('viewer', 'publisher', 'admin')),
    pools      text[] not null,               -- empty: all
    agents     text[] not null,               -- empty: all
    password   text not null,                 -- Argon2id in its own notation; empty: none
    subject    text not null,                 -- at an OIDC provider; empty: known here only
    disabled   boolean not null,
    version    integer not null default 1,    -- grows whenever the sessions end
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp()
);
create unique index account_subject on account (subject) where subject <> '';

create table setup_code (
    code_hash  bytea primary key check (length(code_hash) = 32),
    expires_at timestamptz not null
);

create table portal_session (
    id_hash      bytea primary key check (length(id_hash) = 32), -- SHA-256 of the cookie's value
    session_id   text not null unique collate "C",               -- names it, opens nothing
    who          text not null,                                  -- person/ACCOUNT, or the name of an API token
    account      text references account on delete cascade,      -- null: by an API token
    token_sha256 text not null,
    method       text not null,
    source       text not null,
    client       text not null,
    idle         interval not null,
    opened_at    timestamptz not null default clock_timestamp(),
    seen_at      timestamptz not null default clock_timestamp(),
    ends_at      timestamptz not null
);
create index portal_session_account on portal_session (account);

create type kk_account as (
    name text, label text, role text, pools text[], agents text[], password text, subject text, disabled boolean
);

-- Deciders see accounts as they are: whoever changes one waits for who did so before.
create function kk_lock_accounts() returns void language sql as $$
    lock table account in share row exclusive mode
$$;

-- The accounts that can mend everything, whatever becomes of an OIDC provider.
create function kk_is_keeper(one account) returns boolean language sql immutable as $$
    select one.role = 'admin' and not one.disabled and one.pools = '{}' and one.agents = '{}' and one.subject = ''
$$;

create function kk_keep_one() returns void language plpgsql as $$
begin
    if not exists (select from account a where kk_is_keeper(a)) then perform kk_stale(); end if;
end $$;

-- One code at a time, and none once somebody can sign in as administrator.
create function kk_open_setup(entry kk_entry, hash bytea, until timestamptz) returns kk_written
language plpgsql as $$
begin
    perform kk_lock_accounts();
    if exists (select from account a where kk_is_keeper(a)) then perform kk_stale(); end if;
    delete from setup_code;
    insert into setup_code values (hash, until);
    return kk_commit(entry, '{}');
end $$;

create function kk_set_up(entry kk_entry, hash bytea, fresh kk_account) returns kk_written language plpgsql as $$
begin
    perform kk_lock_accounts();
    if exists (select from account a where kk_is_keeper(a)) then perform kk_stale(); end if;
    delete from setup_code where code_hash = hash and expires_at > clock_timestamp();
    if not found then perform kk_stale(); end if;
    delete from setup_code;
    insert into account (name, label, role, pools, agents, password, subject, disabled) values (fresh.*);
    return kk_commit(entry, '{}');
end $$;

-- `seen` is the version that was decided upon, 0 for a new account. `same`: nothing but the label is different.
create function kk_put_account(entry kk_entry, seen integer, fresh kk_account, same boolean) returns kk_written
language plpgsql as $$
declare
    old account;
begin
    perform kk_lock_accounts();
    select * into old from account where name = fresh.name;
    if seen = 0 then
        insert into account (name, label, role, pools, agents, password, subject, disabled) values (fresh.*);
        return kk_commit(entry, '{}');
    end if;
    update account set label = fresh.label, role = fresh.role, pools = fresh.pools, agents = fresh.agents,
            password = fresh.password, subject = fresh.subject, disabled = fresh.disabled,
            version = version + case when same then 0 else 1 end, changed_at = clock_timestamp()
        where name = fresh.name and version = seen;
    if not found then perform kk_stale(); end if;
    if not same then
        if kk_is_keeper(old) then perform kk_keep_one(); end if;
        delete from portal_session where account = fresh.name;
    end if;
    return kk_commit(entry, '{}');
end $$;

create function kk_remove_account(entry kk_entry, gone text, seen integer) returns kk_written language plpgsql as $$
declare
    old account;
begin
    perform kk_lock_accounts();
    delete from account where name = gone and version = seen returning * into old;
    if not found then perform kk_stale(); end if;
    if kk_is_keeper(old) then perform kk_keep_one(); end if;
    return kk_commit(entry, '{}');
end $$;

create type kk_session as (
    id_hash bytea, session_id text, who text, account text, token_sha256 text, method text, source text, client text
);

-- At most 32 at a time of each person and token: whoever opens one more loses the one that was idle longest.
create function kk_open_session(
    entry kk_entry, fresh kk_session, seen integer, idle_s integer, ttl_s integer
) returns kk_written language plpgsql as $$
declare
    now_at timestamptz := clock_timestamp();
begin
    delete from portal_session s where s.ends_at <= now_at or s.seen_at + s.idle <= now_at;
    if fresh.account is not null then
        perform 1 from account a
            where a.name = fresh.account and a.version = seen and not a.disabled for share;
        if not found then perform kk_stale(); end if;
    end if;
    delete from portal_session where id_hash in (
        select id_hash from portal_session s
        where s.who = fresh.who
        order by seen_at desc offset 31);
    insert into portal_session (id_hash, session_id, who, account, token_sha256, method, source, client, idle, ends_at)
        values (fresh.*, make_interval(secs => idle_s), now_at + make_interval(secs => ttl_s));
    return kk_commit(entry, '{}');
end $$;

create function kk_end_sessions(entry kk_entry, ended text[]) returns kk_written language plpgsql as $$
begin
    delete from portal_session where session_id = any(ended);
    if not found then perform kk_stale(); end if;
    return kk_commit(entry, '{}');
end $$;

create function kk_note(entry kk_entry) returns kk_written language sql as $$
    select kk_commit(entry, '{}')
$$;
