"""The registry put together: what it answers, and the loops that it runs."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from kakuremichi.bus.issuer import NodeIssuer
from kakuremichi.bus.port import Bus
from kakuremichi.bus.serve import serve
from kakuremichi.wire import subjects
from kakuremichi.wire.checkpoints import AskCheckpoint
from kakuremichi.wire.commands import AnyCommand
from kakuremichi.wire.history import AnyHistoryRequest
from kakuremichi.wire.key_requests import AnyKeyRequest
from kakuremichi.wire.people import AnyPeopleRequest
from kakuremichi.wire.requests import AnyRenew, SnapshotRequest
from kakuremichi_registry.access import AccessLog
from kakuremichi_registry.beacons import Beacons
from kakuremichi_registry.checkpoints import Checkpoints
from kakuremichi_registry.commands import Commands
from kakuremichi_registry.cuts import Cuts
from kakuremichi_registry.database import Database
from kakuremichi_registry.keys import Keys
from kakuremichi_registry.leadership import Leadership
from kakuremichi_registry.maintenance import Maintenance
from kakuremichi_registry.passes import Passes
from kakuremichi_registry.past import Past
from kakuremichi_registry.people import People
from kakuremichi_registry.relay import Relay
from kakuremichi_registry.relay_sources import Facts, FeedItems
from kakuremichi_registry.reports import Reports
from kakuremichi_registry.signer import Signer
from kakuremichi_registry.snapshot import Snapshots
from kakuremichi_registry.trust import Trust

QUEUE = "registry"

Loop = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


class Registry:
    """One replica. Call `listen` once, then run the loops of `loops()` until they are told to stop.

    `claims` is a second connection, into the server's own account, for revocations.
    """

    def __init__(self, bus: Bus, database: Database, trust: Trust, issuer: NodeIssuer, claims: Bus) -> None:
        self._bus = bus
        signer = Signer(trust)
        self.leadership = Leadership(database)
        self.access = AccessLog(database)
        self.passes = Passes(database, trust, issuer)
        self.cuts = Cuts(claims, database, issuer)
        self.commands = Commands(database, trust, self.access, self.passes, self.cuts, wrote=self.leadership.wrote)
        self.keys = Keys(database, trust)
        self.snapshots = Snapshots(database, signer)
        self.reports = Reports(bus, database, signer)
        self.feed_relay = Relay(bus, database, FeedItems(database, signer), self.leadership)
        self.audit_relay = Relay(bus, database, Facts(database), self.leadership, gather_s=0.02)
        self.beacons = Beacons(bus, database, signer, self.leadership.leading)
        self.maintenance = Maintenance(database, self.leadership.leading)
        self.past = Past(database, trust)
        self.people = People(database, self.access, wrote=self.leadership.wrote)
        self.checkpoints = Checkpoints(database, trust)

    async def listen(self) -> None:
        bus = self._bus
        asked: tuple[tuple[str, Any, Any, Any, int], ...] = (
            (subjects.COMMAND, AnyCommand, self.commands.answer, Commands.refuse, 16),
            (subjects.KEY, AnyKeyRequest, self.keys.answer, Keys.refuse, 8),
            (subjects.SNAPSHOT, SnapshotRequest, self.snapshots.answer, Snapshots.refuse, 8),
            (subjects.RENEW, AnyRenew, self.passes.answer, Passes.refuse, 4),
            (subjects.HISTORY, AnyHistoryRequest, self.past.answer, Past.refuse, 4),
            (subjects.PEOPLE, AnyPeopleRequest, self.people.answer, People.refuse, 8),
            (subjects.WITNESS, AskCheckpoint, self.checkpoints.answer, Checkpoints.refuse, 2),
        )
        for subject, kind, answer, refuse, at_once in asked:
            await serve(bus, subject, kind, answer, queue=QUEUE, refuse=refuse, at_once=at_once)
        await bus.subscribe(subjects.REPORT, self.reports.take, queue=QUEUE)

    def loops(self) -> dict[str, Loop]:
        return {
            "leadership": self.leadership.run,
            "feed_relay": self.feed_relay.run,
            "audit_relay": self.audit_relay.run,
            "beacons": self.beacons.run,
            "reports": self.reports.run,
            "access_log": self.access.run,
            "maintenance": self.maintenance.run,
            "cuts": self.cuts.run,
            "checkpoints": partial(self.checkpoints.run, leading=self.leadership.leading),
            "states": partial(self.past.history.run, leading=self.leadership.leading),
        }
