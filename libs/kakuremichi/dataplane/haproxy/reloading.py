"""Reloads that several callers share: the first one at once, then at most one in GAP_S. All that waits goes into it."""

import asyncio
from collections.abc import Awaitable, Callable

from kakuremichi.dataplane.haproxy.report import Report

GAP_S = 1.0  # each reload leaves an old worker behind until its last connection has ended


class SharedReload:
    """`perform` is run by whoever waits first; those who asked before it began get the same report."""

    def __init__(self, perform: Callable[[], Awaitable[Report]]) -> None:
        self._perform = perform
        self._turn = asyncio.Lock()
        self._asked = 0
        self._covered = 0
        self._report = Report()
        self._not_before = 0.0

    def ask(self) -> int:
        """Call it when what is to be loaded stands in the book; `done` takes the ticket."""
        self._asked += 1
        return self._asked

    async def done(self, ticket: int) -> Report:
        """The report of a run that began after the ticket was given."""
        async with self._turn:
            if self._covered < ticket:
                clock = asyncio.get_running_loop()
                await asyncio.sleep(self._not_before - clock.time())
                covered = self._asked
                self._report = await self._perform()
                self._covered = covered
                if self._report.reloaded:
                    self._not_before = clock.time() + GAP_S
            return self._report
