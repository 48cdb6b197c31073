"""The last report of each node: written in batches, answered with the heads of its feeds."""

from collections.abc import Sequence
from typing import NamedTuple

from kakuremichi.model.ids import NodeId, PoolName
from kakuremichi.wire.identity import Role
from kakuremichi_registry.database import Database

# Reports of nodes that are not enrolled (any more) are not kept and not answered.
KEEP = """
insert into report as r (node_id, at, report, tags, networks, has_errors)
select u.node_id, clock_timestamp(), u.report, string_to_array(u.tags, ' '),
       string_to_array(u.networks, ' ')::cidr[], u.has_errors
from unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::boolean[])
     u(node_id, report, tags, networks, has_errors)
join node n on n.node_id = u.node_id and n.removed_at is null
order by u.node_id
on conflict (node_id) do update
set at = excluded.at, report = excluded.report, tags = excluded.tags, networks = excluded.networks,
    has_errors = excluded.has_errors
returning r.node_id
"""
PLACES = "select node_id, role, pool from node where node_id = any($1::text[]) and removed_at is null"


class KeptReport(NamedTuple):
    node_id: NodeId
    report: bytes
    tags: tuple[str, ...]
    networks: tuple[str, ...]
    has_errors: bool


class NodePlace(NamedTuple):
    role: Role
    pool: PoolName


async def keep(database: Database, reports: Sequence[KeptReport]) -> None:
    await database.execute(
        KEEP,
        [report.node_id for report in reports],
        [report.report for report in reports],
        [" ".join(report.tags) for report in reports],
        [" ".join(report.networks) for report in reports],
        [report.has_errors for report in reports],
    )


async def places(database: Database, nodes: Sequence[str]) -> dict[NodeId, NodePlace]:
    """Role and pool of those that are live nodes."""
    rows = await database.fetch(PLACES, list(nodes))
    return {row["node_id"]: NodePlace(row["role"], row["pool"]) for row in rows}
