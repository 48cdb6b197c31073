"""Asks the gateways of a pool what they have counted: one message to all, one answer of each, nothing in between."""

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from msgspec import structs

from kakuremichi.bus.port import Bus, BusError, Message, Subscription
from kakuremichi.model.ids import NodeId, PoolName, ServiceId
from kakuremichi.wire import subjects
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.counters import MOST_SERVICES, AskCounters, CountersTold
from kakuremichi_portal.problems import ProblemError

log = structlog.get_logger()

WITHIN_S = 2.0  # a gateway that was not asked lately looks twice, half a second apart; 10,000 services take it a second
MOST_AT_ONCE = 8  # asks of all callers


@dataclass(slots=True)
class _Ask:
    """`known` may answer, about `services` only; it is over when all of `awaited` have."""

    services: frozenset[ServiceId]
    known: frozenset[NodeId]
    awaited: set[NodeId]
    answers: dict[NodeId, CountersTold] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Counters:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._asks: dict[bytes, _Ask] = {}
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def listen(self) -> Subscription:
        return await self._bus.subscribe(subjects.COUNTERS, self.hear)

    async def hear(self, message: Message) -> None:
        try:
            told = decode(message.data, CountersTold)
        except WireError as error:
            log.debug("counters malformed", subject=message.subject, reason=str(error))
            return
        # Other portals' answers come here too; and who speaks is told by the subject, whatever the message says.
        ask, node = self._asks.get(told.ask_id), subjects.node_of(message.subject)
        if ask is None or node not in ask.known:
            return
        counted = {each.service_id: each for each in told.services if each.service_id in ask.services}
        ask.answers[node] = structs.replace(told, services=tuple(counted.values()))
        ask.awaited.discard(node)
        if not ask.awaited:
            ask.over.set()

    async def ask(
        self,
        pool: PoolName,
        services: Iterable[ServiceId],
        *,
        known: Collection[NodeId],
        awaited: Collection[NodeId],
        within_s: float = WITHIN_S,
    ) -> list[Mapping[NodeId, CountersTold]]:
        """The answers of `known` that came until all of `awaited` have answered, at the latest after `within_s`
        seconds; one mapping for each part of `services`, as a message has room for so many only.
        """
        wanted = tuple(services)
        parts = [wanted[start : start + MOST_SERVICES] for start in range(0, len(wanted), MOST_SERVICES)]
        return list(await asyncio.gather(*(self._ask(pool, part, known, awaited, within_s) for part in parts)))

    async def _ask(
        self,
        pool: PoolName,
        services: tuple[ServiceId, ...],
        known: Collection[NodeId],
        awaited: Collection[NodeId],
        within_s: float,
    ) -> Mapping[NodeId, CountersTold]:
        ask_id, ask = secrets.token_bytes(16), _Ask(frozenset(services), frozenset(known), set(awaited))
        async with self._turns:
            self._asks[ask_id] = ask
            try:
                await self._send(pool, AskCounters(ask_id=ask_id, services=services))
                if ask.awaited:
                    async with asyncio.timeout(within_s):
                        await ask.over.wait()
            except TimeoutError:
                pass  # who is missing is named to the caller
            finally:
                del self._asks[ask_id]
        return ask.answers

    async def _send(self, pool: PoolName, ask: AskCounters) -> None:
        try:
            await self._bus.publish(subjects.ask_counters(pool), encode(ask))
        except BusError as error:
            detail = "the portal has no connection to the gateways; nothing was asked"
            raise ProblemError(503, "bus-unavailable", detail, headers={"Retry-After": "1"}) from error
