"""Looking many things up at once: one statement for all who ask while the one before is under way."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 64  # in one look


class Gathered(Generic[K, V]):
    """`get` asks, `look` answers a list of different keys; one look at a time.

    A look begins after each of its askers has asked, so it sees whatever was committed before they did: who reads what
    he has just written finds it. A lone asker waits for nobody.
    """

    def __init__(self, look: Callable[[list[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._look = look
        self._waiting: list[tuple[K, asyncio.Future[V | None]]] = []
        self._looking: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """None if it was not found. Raises what the look raised."""
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._run(), name="gathered look")
        return await answer

    async def _run(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            try:
                found = await self._look(list({key: None for key, _ in taken}))
            except Exception as error:  # noqa: BLE001  # it is the askers'
                for _, answer in taken:
                    if not answer.done():  # else the asker has gone
                        answer.set_exception(error)
                continue
            for key, answer in taken:
                if not answer.done():
                    answer.set_result(found.get(key))
