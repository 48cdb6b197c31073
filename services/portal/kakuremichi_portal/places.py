"""Where nodes are: by this the live views of callers with limits are judged, without asking for each event."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from kakuremichi.wire.facts import LoggedFact, NodeEnrolled
from kakuremichi_portal.principal import EVERYTHING, Scope, within
from kakuremichi_portal.registry import Registry


class Place(NamedTuple):
    role: str
    pool: str


Lookup = Callable[[], Awaitable[dict[str, Place]]]


def lookup(registry: Registry) -> Lookup:
    """All nodes, as the registry has them now."""

    async def look_up() -> dict[str, Place]:
        # All callers with limits share the answer, and it is asked for while one of them is being let in.
        with within(EVERYTHING):
            nodes = [*await registry.nodes("portal", "agent"), *await registry.nodes("portal", "gateway")]
        return {node.node_id: Place(node.role, node.pool) for node in nodes}

    return look_up


class Places:
    """What the registry said once, and what has happened since. A node that is not in it is nobody's."""

    def __init__(self, look_up: Lookup) -> None:
        self._look_up, self._known = look_up, dict[str, Place]()
        self._turn = asyncio.Lock()
        self._learned, self._forgotten = False, 0

    def forget(self) -> None:
        self._known.clear()
        self._learned, self._forgotten = False, self._forgotten + 1

    def hear(self, fact: LoggedFact) -> None:
        if fact.topic == "node-enrolled":
            node = msgspec.json.decode(fact.fact, type=NodeEnrolled)
            self._known[node.node_id] = Place(node.role, node.pool)

    async def learn(self) -> None:
        """:class:`ProblemError` if the registry does not say."""
        async with self._turn:
            while not self._learned:
                begun, self._known = self._forgotten, {}
                answer = await self._look_up()
                # What was heard since it was asked for is newer; if hearing was broken off meanwhile, it is too old.
                if begun == self._forgotten:
                    self._known = answer | self._known
                    self._learned = True

    def role_of(self, name: str) -> str:
        place = self._known.get(name)
        return place.role if place else ""

    def has(self, scope: Scope, name: str) -> bool:
        place = self._known.get(name)
        return place is not None and scope.has_placed(place.role, place.pool, name)
