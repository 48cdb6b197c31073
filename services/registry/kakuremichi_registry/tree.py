"""The Merkle tree over the log as this database can compute it: from the roots of whole runs, and few single rows."""

import asyncio
from collections.abc import Callable

from kakuremichi.audit.merkle import Frontier, consistency_proof, root_of, subtree_by_runs
from kakuremichi_registry.database import Database
from kakuremichi_registry.store import checkpoints as store

AT_ONCE = 16  # runs whose hashes are read with one statement


class RowsMissingError(Exception):
    """The database lacks rows that the tree is made of, and what stands for those that were retired; a sentence."""


class LogTree:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: list[bytes] = []  # roots of whole runs, from the first on
        self._growing = asyncio.Lock()

    async def root(self, size: int) -> bytes:
        """Over the first `size` rows; :class:`RowsMissingError`."""
        await self._know_runs(size)
        whole = min(len(self._runs), size // store.RUN)
        frontier = Frontier()
        for root in self._runs[:whole]:
            frontier.append_subtree(store.RUN, root)
        for entry in await self._entries(whole * store.RUN, size):
            frontier.append(entry)
        return frontier.root()

    async def proof(self, small: int, large: int) -> tuple[bytes, ...]:
        """That the tree of `large` rows continues that of `small`; :class:`RowsMissingError`."""
        await self._know_runs(large)
        entries: dict[int, bytes] = {}
        for number in {(small - 1) // store.RUN, small // store.RUN, (large - 1) // store.RUN}:
            first = number * store.RUN
            found = await self._entries(first, min(first + store.RUN, large))
            entries |= dict(enumerate(found, first))
        by_runs: Callable[[int], bytes] = self._runs.__getitem__
        return consistency_proof(small, large, subtree_by_runs(store.RUN, by_runs, entries.__getitem__))

    async def _know_runs(self, size: int) -> None:
        """Read the roots of whole runs that were kept, and make and keep those that are new."""
        async with self._growing:
            if len(self._runs) < size // store.RUN:
                self._runs += await store.runs(self._database, len(self._runs))
            await self._make_runs(size)

    async def _make_runs(self, size: int) -> None:
        while (missing := size // store.RUN - len(self._runs)) > 0:
            first = len(self._runs)
            until = (first + min(missing, AT_ONCE)) * store.RUN
            entries = await self._entries(first * store.RUN, until)
            for number in range(first, until // store.RUN):
                run = entries[(number - first) * store.RUN : (number - first + 1) * store.RUN]
                self._runs.append(await asyncio.to_thread(root_of, run))
                await store.keep_run(self._database, number, self._runs[number])

    async def _entries(self, after: int, until: int) -> list[bytes]:
        found = await store.hashes(self._database, after, until)
        if len(found) < until - after:
            raise RowsMissingError(f"log rows {after + 1} to {until}: {len(found)} of them are in this database")
        return found
