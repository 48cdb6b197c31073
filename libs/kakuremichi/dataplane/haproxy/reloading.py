"""Work that several callers share: all that waits goes into the next run. After a reload there is a pause of GAP_S."""

import asyncio
from collections.abc import Awaitable, Callable

from kakuremichi.dataplane.haproxy.report import Report

GAP_S = 1.0  # each reload leaves an old worker behind until its last connection has ended


class Shared:
    """`perform` is run by whoever waits first; those who asked before it began get the same report."""

    def __init__(self, perform: Callable[[], Awaitable[Report]], *, most: int = 2**31) -> None:
        """`most`: so many callers share one run."""
        self._perform, self._most = perform, most
        self._turn = asyncio.Lock()
        self._asked = 0
        self._covered = 0
        self.covering = 0  # the newest ticket of the run that is under way
        self._report = Report()
        self._not_before = 0.0

    def ask(self) -> int:
        """Call it when what is to be done stands in the book; `done` takes the ticket."""
        self._asked += 1
        return self._asked

    async def done(self, ticket: int) -> Report:
        """The report of a run that began after the ticket was given."""
        async with self._turn:
            while self._covered < ticket:
                clock = asyncio.get_running_loop()
                await asyncio.sleep(self._not_before - clock.time())
                self.covering = min(self._asked, self._covered + self._most)
                self._report = await self._perform()
                self._covered = self.covering
                if self._report.reloaded:
                    self._not_before = clock.time() + GAP_S
            return self._report
