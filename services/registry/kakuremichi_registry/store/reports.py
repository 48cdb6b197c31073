"""The last report of each node: written in batches, answered with the heads of its feeds."""

from collections.abc import Sequence
from typing import NamedTuple

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.wire.identity import Role
from kakuremichi_registry.database import Database

# Reports of nodes that are not enrolled (any more) are not kept and not answered.
KEEP = """
with live as (
    select u.*, n.role, n.pool
    from unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::boolean[])
         u(node_id, report, tags, networks, has_errors)
    join node n on n.node_id = u.node_id and n.removed_at is null
), kept as (
    insert into report as r (node_id, at, report, tags, networks, has_errors)
    select node_id, clock_timestamp(), report, string_to_array(tags, ' '), string_to_array(networks, ' ')::cidr[],
           has_errors
    from live order by node_id
    on conflict (node_id) do update
    set at = excluded.at, report = excluded.report, tags = excluded.tags, networks = excluded.networks,
        has_errors = excluded.has_errors
)
select node_id, role, pool from live
"""


class KeptReport(NamedTuple):
    node_id: NodeId
    report: bytes
    tags: tuple[str, ...]
    networks: tuple[str, ...]
    has_errors: bool


class NodePlace(NamedTuple):
    role: Role
    pool: PoolName


async def keep(database: Database, reports: Sequence[KeptReport]) -> dict[NodeId, NodePlace]:
    """Keep the reports of live nodes; role and pool of those."""
    rows = await database.fetch(
        KEEP,
        [report.node_id for report in reports],
        [report.report for report in reports],
        [" ".join(report.tags) for report in reports],
        [" ".join(report.networks) for report in reports],
        [report.has_errors for report in reports],
    )
    return {row["node_id"]: NodePlace(row["role"], row["pool"]) for row in rows}
