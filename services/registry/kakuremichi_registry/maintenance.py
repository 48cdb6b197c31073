"""What may be forgotten: old feed items, used keys of requests, refusals. Facts and WireGuard keys never."""

import asyncio

import structlog

from kakuremichi.runtime.backoff import around
from kakuremichi_registry.database import Database, DatabaseUnavailableError

log = structlog.get_logger(__name__)

EVERY_S = 300.0
KEPT_ITEMS = 100_000  # of all feeds together; live records are kept apart from them

# Of each day that is long past one checkpoint stays: it covers the rows of the others too.
SUPERSEDED = """
    select c.size from checkpoint c where c.at < clock_timestamp() - interval '30 days' and exists (
        select from checkpoint later
        where later.size > c.size and later.at < date_trunc('day', c.at) + interval '1 day')
"""


def statements(*, kept_items: int = KEPT_ITEMS) -> tuple[str, ...]:
    return (
        # Never what the relay has not stored yet.
        f"""delete from feed_item where item_seq <= least(
                (select item_seq from log_head) - {kept_items},
                coalesce((select position from relay_cursor where relay = 'FEED'), 0))""",  # noqa: S608  # a number
        "delete from idempotency where at < clock_timestamp() - interval '24 hours'",
        "delete from freed_host where until < clock_timestamp()",
        "delete from join_token where expires_at < clock_timestamp() - interval '30 days'",
        "delete from cut_identity where cut_at < clock_timestamp() - interval '30 days'",
        f"delete from checkpoint_witness where size in ({SUPERSEDED})",  # noqa: S608  # a statement of ours
        f"delete from checkpoint where size in ({SUPERSEDED})",  # noqa: S608  # the same
        "delete from access_log where at < clock_timestamp() - interval '30 days'",
    )


STATEMENTS = statements()


class Maintenance:
    """Run by the process that relays."""

    def __init__(self, database: Database, leading: asyncio.Event) -> None:
        self._database, self._leading = database, leading

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with asyncio.timeout(around(EVERY_S)):
                    await stop.wait()
            except TimeoutError:
                if self._leading.is_set():
                    await self.once()

    async def once(self) -> None:
        try:
            for statement in STATEMENTS:
                await self._database.execute(statement)
        except DatabaseUnavailableError as error:
            log.info("nothing forgotten", reason=str(error))
