"""From the registry's plan, which is by feed, to one row for each node. Pure."""

from collections.abc import Iterator
from itertools import islice

from kakuremichi.wire import commands
from kakuremichi_portal import shapes

MOST_ROWS = 10_000


def plan(found: commands.Plan, name: str) -> shapes.Plan:
    rows = _rows(found)
    shown = tuple(islice(rows, MOST_ROWS))
    return shapes.Plan(
        name=name, changed=found.changed, changes=shown,
        left_out=sum(1 for _ in rows) + _unnamed(found) + found.left_out,
    )  # fmt: skip


def _rows(found: commands.Plan) -> Iterator[shapes.PlannedChange]:
    readers = {one.feed: one.nodes for one in found.readers}
    for change in found.changes:
        for node in readers.get(change.feed, ()):
            yield shapes.PlannedChange(
                node=node, kind=change.kind, key=change.key, action=change.action, what=change.what
            )


def _unnamed(found: commands.Plan) -> int:
    """Rows of nodes that the registry's answer had no room for."""
    left_out = {one.feed: one.left_out for one in found.readers}
    return sum(left_out.get(change.feed, 0) for change in found.changes)
