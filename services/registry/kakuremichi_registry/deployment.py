"""The one deployment of a database: made at the first start, and never mixed with another one's keys."""

import uuid
from collections.abc import Sequence
from ipaddress import IPv4Network

import structlog

from kakuremichi.wire.codec import encode
from kakuremichi_registry.database import Database
from kakuremichi_registry.migrate import migrate
from kakuremichi_registry.trust import Trust, TrustError

log = structlog.get_logger(__name__)


async def prepare(database: Database, trust: Trust, networks: Sequence[IPv4Network]) -> None:
    """Bring the database to this release and to this deployment.

    `networks` are what subnets are taken from, in order; what is assigned already stays when they change.
    :class:`TrustError` if the database belongs to a deployment with other keys.
    """
    async with database.own_connection() as connection:
        applied = await migrate(connection)
        if applied:
            log.info("database migrated", migrations=applied)
        await connection.execute(
            "insert into deployment (deployment_id, trust_set, feed_key, networks) values ($1, $2, $3, $4::cidr[])"
            " on conflict do nothing",
            trust.deployment, encode(trust.trust_set), encode(trust.feed_certificate), list(networks),
        )  # fmt: skip
        await connection.execute("insert into log_head (log_id) values ($1) on conflict do nothing", uuid.uuid4().hex)
        held = await connection.fetchval("select deployment_id from deployment")
        if held != trust.deployment:
            raise TrustError(
                f"database: of deployment {held.hex()}, the trust keys are of {trust.deployment.hex()};"
                " bring the two that belong together"
            )
        await connection.execute(
            "update deployment set trust_set = $1, feed_key = $2, networks = $3::cidr[]",
            encode(trust.trust_set), encode(trust.feed_certificate), list(networks),
        )  # fmt: skip
