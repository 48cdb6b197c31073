"""Refusals: not facts, kept for a while beside the log and never in its chain, so strangers cannot write into it."""

import asyncio
from collections import deque

import structlog

from kakuremichi.wire.commands import Command, Problem
from kakuremichi_registry.database import Database, DatabaseUnavailableError

log = structlog.get_logger(__name__)

EVERY_S = 1.0
MOST_WAITING = 1000  # a flood costs memory for this many, the rest is counted only
KEPT = "30 days"


class AccessLog:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[str, str, str, str]] = deque()
        self.dropped = 0

    def refused(self, command: Command, problem: Problem) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        action = str(command.__struct_config__.tag)
        texts = (command.actor, action, problem.code, problem.detail)
        self._waiting.append(tuple(text.replace("\0", "\\0") for text in texts))  # type: ignore[arg-type]

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with asyncio.timeout(EVERY_S):
                    await stop.wait()
            except TimeoutError:
                pass
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            await self._database.execute(
                "insert into access_log (actor, action, code, detail)"
                " select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])",
                *(list(column) for column in zip(*rows, strict=True)),
            )
        except DatabaseUnavailableError as error:
            self.dropped += len(rows)
            log.warning("refusals not kept", count=len(rows), reason=str(error))
