"""Tokens, nodes and their keys: what decisions look at, and their writes."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from kakuremichi.model.addresses import Endpoint
from kakuremichi.model.ids import PoolName
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.commands import CreateToken, RemoveNode
from kakuremichi.wire.identity import Announcement, Role
from kakuremichi.wire.signing import Signed, digest_of
from kakuremichi_registry.contexts import EnrolContext, RemoveContext, TokenContext
from kakuremichi_registry.database import Database
from kakuremichi_registry.enrolment import Enrolment, Removal
from kakuremichi_registry.items import Item
from kakuremichi_registry.store.entries import Entry, Written
from kakuremichi_registry.store.sql import KNOWN_NODE_JSON, SERVICE_JSON, names

TOKEN = f"""
select json_build_object(
    'log_id', (select log_id from log_head),
    'node', (select {KNOWN_NODE_JSON} from node n where n.node_id = $1)
)::text
"""  # noqa: S608  # constants of ours only

# $1 hash of the token's secret, $2 identity key
ENROL = f"""
with token as (select * from join_token
               where secret_hash = $1 and used_at is null and expires_at > clock_timestamp())
select json_build_object(
    'token', (select json_build_object('token_id', token_id, 'role', role, 'node_id', node_id, 'pool', pool)
              from token),
    'log_id', (select log_id from log_head),
    'networks', (select networks from deployment),
    'enrolments', (select enrolments from deployment),
    'node', (select {KNOWN_NODE_JSON} from node n join token using (node_id)),
    'identity_holder', (select node_id from node where identity_key = $2 and removed_at is null
                        union all select node_id from revoked_identity where identity_key = $2 limit 1),
    'subnets', (select coalesce(json_agg(json_build_array(node_id, network(subnet) - inet '0.0.0.0')), '[]'::json)
                from node where removed_at is null and subnet is not null and exists (select from token)),
    'gateway_networks', (select coalesce(json_agg(distinct net), '[]'::json)
                         from node n left join report r using (node_id),
                              unnest(n.networks || coalesce(r.networks, '{{}}')) net
                         where n.removed_at is null and n.role = 'gateway' and masklen(net) > 0),
    'slots', (select coalesce(json_agg(n.slot), '[]'::json) from node n join token t on n.pool = t.pool
              where n.removed_at is null and n.slot is not null),
    'freed_slots', (select coalesce(json_agg(json_build_object('slot', f.slot,
                        'freed_at', extract(epoch from f.freed_at)::float8)), '[]'::json)
                    from freed_slot f join token using (pool)),
    'spent_serial', (select coalesce(max(s.serial), 0) from spent_serial s join token using (node_id))
)::text
"""  # noqa: S608  # constants of ours only

REMOVE = f"""
select json_build_object(
    'log_id', (select log_id from log_head),
    'node', (select {KNOWN_NODE_JSON} from node n where n.node_id = $1),
    'announced', exists (select from node where node_id = $1 and announcement is not null),
    'services', (select coalesce(json_agg({SERVICE_JSON} order by s.service_id), '[]'::json) from service s
                 where exists (select from service_target t where t.service_id = s.service_id and t.agent = $1)),
    'gateways', {names("n.role = 'gateway' and n.pool = (select pool from node where node_id = $1)")},
    'agents', {names("n.role = 'agent' and n.pool = (select pool from node where node_id = $1)")}
)::text
"""  # noqa: S608  # constants of ours only

_token = msgspec.json.Decoder(TokenContext)
_enrol = msgspec.json.Decoder(EnrolContext)
_remove = msgspec.json.Decoder(RemoveContext)


async def see_token(database: Database, node_id: str) -> TokenContext:
    return _token.decode((await database.fetch(TOKEN, node_id))[0][0])


async def create_token(
    database: Database, entry: Entry, command: CreateToken, token_id: str, until: datetime
) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_create_token($1::kk_entry, $2, $3, $4, $5, $6, $7)",
            entry, command.secret_hash, token_id, command.role, command.node_id, command.pool, until,
        )
    )  # fmt: skip


async def see_enrol(database: Database, secret_hash: bytes, identity_key: bytes) -> EnrolContext:
    return _enrol.decode((await database.fetch(ENROL, secret_hash, identity_key))[0][0])


async def enrol(
    database: Database,
    entry: Entry,
    *,
    secret_hash: bytes,
    enrolments: int,
    enrolment: Enrolment,
    signed: Signed,
    pending: bool,
) -> Written:
    """`pending`: the certificate has too few signatures yet."""
    certificate = enrolment.certificate
    node = (
        certificate.node_id, certificate.role, certificate.pool, certificate.slot or None, certificate.subnet or None,
        certificate.identity_key, certificate.sealing_key, encode(signed), certificate.serial,
        [str(endpoint) for endpoint in enrolment.endpoints], [endpoint.address for endpoint in enrolment.endpoints],
        list(enrolment.networks),
    )  # fmt: skip
    return Written.of(
        await database.write(
            "select * from kk_enrol_pending($1::kk_entry, $2, $3, $4::kk_node)"
            if pending
            else "select * from kk_enrol($1::kk_entry, $2, $3, $4::kk_node)",
            entry,
            secret_hash,
            enrolments,
            node,
        )
    )


async def see_remove(database: Database, node_id: str) -> RemoveContext:
    return _remove.decode((await database.fetch(REMOVE, node_id))[0][0])


async def remove(database: Database, entry: Entry, command: RemoveNode, removal: Removal) -> Written:
    return Written.of(
        await database.write(
            "select * from kk_remove_node($1::kk_entry, $2::kk_item[], $3, $4, $5, $6)",
            entry, list(removal.items), command.node_id, removal.serial, removal.epoch,
            [service.service_id for service in removal.services],
        )
    )  # fmt: skip


class Place(NamedTuple):
    role: Role
    pool: PoolName


async def node_place(database: Database, node_id: str) -> Place | None:
    """Role and pool of a live node."""
    row = await database.fetch_one("select role, pool from node where node_id = $1 and removed_at is null", node_id)
    return None if row is None else Place(row["role"], row["pool"])


async def certificate_of(database: Database, node_id: str) -> Signed | None:
    """The live node's certificate as it was signed."""
    row = await database.fetch_one(
        "select certificate from node where node_id = $1 and removed_at is null and not pending", node_id
    )
    return None if row is None else decode(row["certificate"], Signed)


ACCEPT = """
select outcome, epoch from kk_accept_key($1::kk_entry, $2::kk_item[], $3, $4, $5, $6, $7, $8, $9, $10, $11::bytea[])
"""
ACCEPT_RENEWED = ACCEPT.replace("kk_accept_key", "kk_accept_renewed_key")


class KeyOutcome(NamedTuple):
    outcome: str  # accepted, same, not-newer, held, conflict, quarantined, unknown-node
    epoch: int  # the one that stands now


async def accept_key(
    database: Database,
    entry: Entry,
    *,
    items: tuple[Item, ...],
    signed: Signed,
    said: Announcement,
    endpoints: tuple[Endpoint, ...],
    follows: tuple[bytes, ...],
    renewed: bool,
) -> KeyOutcome:
    """`follows`: hashes of announcements, one of which has to be the one that stands. `renewed`: it goes with the
    node's next certificate, which takes its place now.
    """
    row = await database.write(
        ACCEPT_RENEWED if renewed else ACCEPT,
        entry, list(items), said.node_id, said.serial, said.epoch, said.public_key, encode(signed),
        [str(endpoint) for endpoint in endpoints], [endpoint.address for endpoint in endpoints],
        digest_of(signed), list(follows),
    )  # fmt: skip
    return KeyOutcome(row["outcome"], row["epoch"])


async def standing_announcement(database: Database, node_id: str) -> Signed | None:
    """The announcement that was accepted last."""
    row = await database.fetch_one(
        "select announcement from node where node_id = $1 and removed_at is null and announcement is not null", node_id
    )
    return None if row is None else decode(row["announcement"], Signed)
