"""Reports of nodes: taken as they come, kept in batches, answered with the signed heads of the node's feeds.

All gateways of a pool report the same change within milliseconds. They are waited for, so that they share two
statements, and so that a report kept costs the gateways still at work nothing: nobody waits for the answer.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from kakuremichi.bus.port import Bus, BusError, Message
from kakuremichi.bus.serve import may_answer
from kakuremichi.model.addresses import AddressRefusedError, parse_network
from kakuremichi.model.ids import NodeId
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire.codec import WireError, decode_any, encode
from kakuremichi.wire.requests import AnyReport, Report, ReportAnswer
from kakuremichi.wire.signing import Signed
from kakuremichi.wire.subjects import agent_feed, fleet_feed, node_of, pool_feed
from kakuremichi_registry.arrivals import ArrivalLog, Heard
from kakuremichi_registry.database import Database, DatabaseUnavailableError
from kakuremichi_registry.signer import Signer
from kakuremichi_registry.store import feeds
from kakuremichi_registry.store.reports import KeptReport, NodePlace, keep

log = structlog.get_logger(__name__)

MOST_WAITING = 20_000  # above it, reports are dropped: nodes say the same again within 30 s
MOST_REPLIES = 8  # of one node at a time
BATCH = 500
GATHER_S = 0.02


@dataclass(frozen=True, slots=True)
class Waiting:
    """A node's newest report, and whom to answer: also those who asked with one that it has replaced."""

    report: Report
    data: bytes
    at: float  # Unix seconds
    replies: tuple[str, ...]


def feeds_of(node: NodeId, place: NodePlace) -> tuple[str, ...]:
    if place.role == "gateway":
        return (pool_feed(place.pool),)
    return fleet_feed(place.pool), agent_feed(node)


def kept(report: Report, data: bytes) -> KeptReport:
    """What is stored of a report; networks and tags that are none are left out, not refused."""
    networks = []
    for text in report.networks:
        try:
            networks.append(str(parse_network(text)))
        except AddressRefusedError:
            continue
    tags = tuple(tag for tag in report.tags if tag and " " not in tag and "\0" not in tag)
    return KeptReport(report.node_id, data, tags, tuple(networks), bool(report.errors))


class Reports:
    def __init__(self, bus: Bus, database: Database, signer: Signer, now: Callable[[], float] = time.time) -> None:
        self._bus, self._database, self._signer, self._now = bus, database, signer, now
        self._arrivals = ArrivalLog(bus)
        self._waiting: dict[NodeId, Waiting] = {}  # a node's newer report takes the place of its older one
        self._wake = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def take(self, message: Message) -> None:
        """Handler of `report.*`."""
        if not may_answer(message.subject, message.reply):
            self.counts["bad_reply"] += 1
            return
        try:
            report: Report = decode_any(message.data, AnyReport, name="report")
        except WireError as error:
            self.counts["malformed"] += 1
            log.info("report malformed", subject=message.subject, reason=str(error))
            return
        if report.node_id != node_of(message.subject):
            self.counts["malformed"] += 1
            log.warning("report of another node", subject=message.subject, said=report.node_id)
            return
        if len(self._waiting) >= MOST_WAITING:
            self.counts["dropped"] += 1
            return
        replaced = self._waiting.get(report.node_id)
        replies = (*replaced.replies[-MOST_REPLIES + 1 :], message.reply) if replaced else (message.reply,)
        self._waiting[report.node_id] = Waiting(report, message.data, self._now(), replies)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(self._wake, stop)
            await first_of(stop, timeout_s=GATHER_S)
            self._wake.clear()
            while self._waiting:
                await self._batch()

    async def _batch(self) -> None:
        batch = {node: self._waiting.pop(node) for node in list(self._waiting)[:BATCH]}
        try:
            known = await keep(self._database, [kept(waiting.report, waiting.data) for waiting in batch.values()])
            live = {node: waiting for node, waiting in batch.items() if node in known}
            self.counts["unknown"] += len(batch) - len(live)
            if not live:
                return
            wanted = {feed for node in live for feed in feeds_of(node, known[node])}
            heads = await feeds.heads(self._database, wanted)
            await self._answer(live, known, {feed: self._signer.head(head) for feed, head in heads.items()})
            await self._arrivals.tell(
                [Heard(waiting.report, waiting.at, feeds_of(node, known[node])) for node, waiting in live.items()],
                heads,
            )
        except DatabaseUnavailableError as error:
            self.counts["unanswered"] += len(batch)
            log.warning("reports not kept", count=len(batch), reason=str(error))

    async def _answer(
        self, live: dict[NodeId, Waiting], known: dict[NodeId, NodePlace], heads: dict[str, Signed]
    ) -> None:
        for node, waiting in live.items():
            answer = encode(ReportAnswer(heads=tuple(heads[feed] for feed in feeds_of(node, known[node]))))
            for reply in waiting.replies:
                try:
                    await self._bus.publish(reply, answer)
                    self.counts["answered"] += 1
                except BusError as error:
                    self.counts["unanswered"] += 1
                    log.info("report not answered", node=node, reason=str(error))
