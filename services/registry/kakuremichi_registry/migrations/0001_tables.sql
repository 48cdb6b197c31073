-- The truth of one deployment. Constraints carry the invariants; the programs only explain them beforehand.

create table deployment (
    one           boolean primary key default true check (one),
    deployment_id bytea not null check (length(deployment_id) = 16),
    trust_set     bytea not null,  -- Signed TrustSet, as sent
    feed_key      bytea not null,  -- Signed FeedKeyCertificate, as sent
    networks      cidr[] not null, -- subnets are taken from these, in this order
    enrolments    bigint not null default 0, -- who decides on an address saw this number, or decides again
    created_at    timestamptz not null default clock_timestamp()
);

create table pool (
    pool       text primary key,
    number     integer generated always as identity unique,
    created_at timestamptz not null default clock_timestamp()
);

create table node (
    node_id            text primary key collate "C",
    number             integer generated always as identity unique,
    role               text not null check (role in ('gateway', 'agent')),
    pool               text not null references pool,
    slot               smallint check (slot between 1 and 99),
    subnet             cidr check (family(subnet) = 4 and masklen(subnet) = 24),
    identity_key       bytea not null check (length(identity_key) = 32),
    sealing_key        bytea not null check (length(sealing_key) = 32),
    certificate        bytea not null, -- Signed Certificate, as sent
    serial             integer not null,
    epoch              bigint not null default 0, -- survives removal: it never goes back
    announcement       bytea,          -- Signed Announcement, as it came
    public_key         bytea,
    endpoints          text[] not null default '{}',
    endpoint_addresses inet[] not null default '{}',
    networks           cidr[] not null default '{}',
    enrolled_at        timestamptz not null default clock_timestamp(),
    removed_at         timestamptz,
    check ((role = 'gateway') = (slot is not null)),
    check ((role = 'agent') = (subnet is not null)),
    exclude using gist (subnet inet_ops with &&) where (removed_at is null)
);
create unique index node_slot on node (pool, slot) where removed_at is null;
create unique index node_identity on node (identity_key) where removed_at is null;
create index node_pool on node (pool, role) where removed_at is null;

-- A WireGuard key belongs to one node for all time; nothing is ever deleted here.
create table node_key_history (
    public_key  bytea primary key check (length(public_key) = 32),
    node_id     text not null,
    epoch       bigint not null,
    accepted_at timestamptz not null default clock_timestamp()
);

create table freed_slot (
    pool     text not null references pool,
    slot     smallint not null,
    freed_at timestamptz not null default clock_timestamp(),
    primary key (pool, slot)
);

create table join_token (
    secret_hash bytea primary key check (length(secret_hash) = 32),
    token_id    text not null,
    role        text not null,
    node_id     text not null,
    pool        text not null references pool,
    created_at  timestamptz not null default clock_timestamp(),
    expires_at  timestamptz not null,
    used_at     timestamptz
);

create table service (
    service_id  text primary key collate "C",
    pool        text not null references pool,
    kind        text not null check (kind in ('http', 'tls', 'tcp', 'udp')),
    host        text not null,
    path        text not null,
    first_port  integer not null,
    last_port   integer not null,
    sources     text[] not null,
    updated_seq bigint not null default 0, -- who replaces the service saw this number, or decides again
    span        int8range,                 -- (pool, protocol, ports) as one range of numbers, see kk_span
    exclude using gist (span with &&)
);
create unique index service_host on service (host) where host <> '';

create table service_target (
    target_id       text primary key collate "C",
    service_id      text not null references service on delete cascade,
    agent           text not null references node,
    proto           text not null check (proto in ('tcp', 'udp')),
    agent_port      integer not null,
    agent_last_port integer not null,
    address         text not null,
    port            integer not null,
    span            int8range not null,    -- (agent, protocol, agent ports)
    exclude using gist (span with &&)
);
create index service_target_service on service_target (service_id);
create index service_target_agent on service_target (agent);

-- A host name that was given back rests, so that its links do not lead to a stranger the next minute.
create table freed_host (
    host       text primary key,
    service_id text not null,
    until      timestamptz not null
);

create table log_head (
    one      boolean primary key default true check (one),
    log_id   text not null,
    seq      bigint not null default 0, -- of the log
    item_seq bigint not null default 0, -- of the items of all feeds together: the order of commits
    hash     bytea not null default decode(repeat('00', 32), 'hex')
) with (fillfactor = 10);

create table event_log (
    seq         bigint primary key,
    prev        bytea not null,
    hash        bytea not null,
    topic       text not null,
    actor       text not null,
    at          timestamptz not null,
    fact        text not null, -- JSON, byte for byte what is under the hash
    traceparent text not null
);

create table feed_head (
    feed     text primary key collate "C",
    feed_seq bigint not null default 0,
    hash     bytea not null default decode(repeat('00', 32), 'hex'),
    count    bigint not null default 0,
    sum      numeric not null default 0 -- SHA-256 of every live item's body, added modulo 2^256
) with (fillfactor = 50);

create table feed_item (
    item_seq    bigint primary key,
    feed        text not null collate "C",
    feed_seq    bigint not null,
    path        text not null collate "C", -- kind/key
    gone        boolean not null,
    body        bytea not null,
    hash        bytea not null,
    traceparent text not null,
    unique (feed, feed_seq)
);

create table feed_live (
    feed     text not null collate "C",
    path     text not null collate "C",
    feed_seq bigint not null,
    body     bytea not null,
    hash     bytea not null,
    primary key (feed, path)
);

create table idempotency (
    actor        text not null,
    key          text not null,
    request_hash bytea not null,
    answer       bytea not null, -- the answer but for what only the transaction knew, which follows
    seq          bigint not null,
    feeds        text[] not null,
    feed_seqs    bigint[] not null,
    at           timestamptz not null default clock_timestamp(),
    primary key (actor, key)
);

create table relay_cursor (
    relay    text primary key,
    position bigint not null,
    at       timestamptz not null default clock_timestamp()
);

create table report (
    node_id    text primary key collate "C",
    at         timestamptz not null,
    report     bytea not null, -- requests.Report as it came
    tags       text[] not null,
    networks   cidr[] not null,
    has_errors boolean not null
) with (fillfactor = 50);

create table access_log (
    at     timestamptz not null default clock_timestamp(),
    actor  text not null,
    action text not null,
    code   text not null,
    detail text not null
);
create index access_log_at on access_log using brin (at);
