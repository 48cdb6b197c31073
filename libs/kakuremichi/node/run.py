"""The loops that gateways and agents have in common, put together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.port import Bus
from kakuremichi.bus.span_mail import post_spans
from kakuremichi.dataplane.links.interfaces import find_interface
from kakuremichi.dataplane.links.networks import changes, used_networks
from kakuremichi.dataplane.wireguard.engine import link_alias
from kakuremichi.node.announcing import Announcer
from kakuremichi.node.certificate import CertificateRenewer
from kakuremichi.node.direct import DirectPeers, DirectRecords, PeerRecord
from kakuremichi.node.epoch_file import EpochFile
from kakuremichi.node.metrics import NodeMetrics
from kakuremichi.node.renewal import BusPass, Renewer, from_portal
from kakuremichi.node.reporting import EVERY_S, Reporter
from kakuremichi.node.rotation import Rotator
from kakuremichi.node.state import Enrolment, NodeState
from kakuremichi.node.worker import Done, Node, Worker
from kakuremichi.reconcile.follower import Applied, Follower
from kakuremichi.reconcile.holding import Holding, Key
from kakuremichi.reconcile.journal import Journal
from kakuremichi.reconcile.verify import Verifier
from kakuremichi.runtime.service import run_until_stopped
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire import subjects
from kakuremichi.wire.identity import Role
from kakuremichi.wire.records import AnyRecord

log = structlog.get_logger()

Loop = Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Feeds:
    """What a node follows, each with what it holds of it."""

    holdings: tuple[Holding, ...]
    followers: tuple[Follower, ...]

    def complete(self) -> bool:
        """Whether there is a whole state of every feed, from a snapshot or from the disk."""
        return all(holding.cursor is not None for holding in self.holdings)


class Emitter:
    """Between what is made last (worker, reporter) and those who give it work, which are made before it."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.reporter: Reporter | None = None
        self.found: Callable[[], Mapping[Key, str]] = dict  # errors that are of no pass

    def __call__(self, applied: Applied) -> None:
        if self.worker is not None:
            self.worker.take(applied)

    def warn(self, topic: str, sentence: str) -> None:
        """Into the report until it is replaced; "" takes it back."""
        if self.reporter is not None:
            self.reporter.warn(topic, sentence)

    def report_soon(self) -> None:
        if self.reporter is not None:
            self.reporter.soon()

    def redo(self, keys: Iterable[Key]) -> None:
        """Let the worker look at these keys once more."""
        if self.worker is not None:
            self.worker.redo(keys)

    def look_at(self, keys: frozenset[Key]) -> None:
        """These records changed without a feed."""
        self.redo(keys)

    async def probe(self, _bus: Bus) -> None:
        """The bus's proof of life: a report that the registry answers."""
        if self.reporter is not None:
            await self.reporter.send()


@dataclass(frozen=True, slots=True)
class Station:
    """An enrolled node on its host: who it is, its interface, its bus, and whom it believes."""

    state: NodeState
    enrolment: Enrolment
    interface: str
    bus: NatsBus
    access: BusPass
    verifier: Verifier
    emit: Emitter
    epochs: EpochFile
    direct: DirectRecords

    @property
    def alias(self) -> str:
        """The mark on our interface."""
        return link_alias(self.enrolment.deployment.hex()[:8], self.enrolment.node.node_id)

    @classmethod
    def open(cls, state: NodeState, enrolment: Enrolment, interface: str) -> "Station":
        emit = Emitter()
        access = BusPass(state, enrolment, lambda: from_portal(state, enrolment))
        bus = _open_bus(enrolment, access, state.ca_file(), emit)
        access.refusals = lambda: bus.counts["credentials_refused"]
        epochs, direct = EpochFile(state.directory / "epochs"), DirectRecords.load(state.directory / "direct")
        return cls(state, enrolment, interface, bus, access, enrolment.verifier(), emit, epochs, direct)

    def direct_peers(
        self, role: Role, listed: Callable[[Key], AnyRecord | None], check: Callable[[PeerRecord], None]
    ) -> DirectPeers:
        """Judges what peers of `role` say without the control plane."""
        pool = self.enrolment.node.pool
        return DirectPeers(role, pool, self.verifier, self.epochs.epochs, self.direct, listed, check, self.emit.look_at)

    def open_feeds(self, names: Iterable[str]) -> Feeds:
        """A follower for each feed, its last-known-good loaded."""
        node, holdings, followers = self.enrolment.node.node_id, [], []
        for name in names:
            holding = Holding(name)
            follower = Follower(self.bus, node, holding, self.verifier, Journal(self.state.feeds(), name), self.emit)
            loaded = follower.load()
            log.info("last-known-good", feed=name, loaded=loaded, records=len(holding.live))
            holdings.append(holding)
            followers.append(follower)
        return Feeds(tuple(holdings), tuple(followers))

    async def run(
        self,
        node: Node,
        feeds: Feeds,
        warnings: Iterable[tuple[str, str]],
        rotator: Rotator,
        *,
        new_key: Callable[[], Awaitable[None]],
        metrics: NodeMetrics,
        **loops: Loop,
    ) -> None:
        """Follow, apply, announce and report until SIGTERM. What is applied stays when this ends, however it ends."""
        networks: list[str] = []
        boot_id, node_id = self.state.boot_id(), self.enrolment.node.node_id
        reporter = Reporter(self.bus, node_id, boot_id, feeds.followers, lambda: networks, found=self.emit.found)
        for topic, sentence in warnings:
            reporter.warn(topic, sentence)

        def done(what: Done) -> None:
            self.direct.flush()
            self.epochs.flush()
            for holding in feeds.holdings:
                rotator.ask(holding.desired(("rotate", node_id)))
            reporter.done(what)

        worker = Worker(node, done, feeds.complete)
        self.emit.worker, self.emit.reporter = worker, reporter
        if feeds.complete():
            # There is a last-known-good of every feed: old or not, it is nearer to the truth than an empty table.
            worker.compare_everything()
        announcer = Announcer(
            self.bus,
            self.state,
            self.enrolment,
            lambda sentence: reporter.warn("key", sentence),
            new_key=new_key,
            on_accepted=rotator.accepted,
        )
        rotator.announce = announcer.announce_again
        certificate = CertificateRenewer(self.bus, self.state, self.enrolment, self.verifier, announcer.announce_again,
                                         lambda sentence: reporter.warn("certificate", sentence))  # fmt: skip

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.bus)
            spans = post_spans(self.bus, subjects.node_spans(node_id))
            followers = {f"follow {follower.feed}": follower.run for follower in feeds.followers}
            await run_until_stopped(
                bus=self.bus.hold,
                worker=worker.run,
                announce=announcer.run,
                rotate=rotator.run,
                access=Renewer(self.bus, self.access).run,
                certificate=certificate.run,
                report=reporter.run,
                host=partial(_watch_host, self.interface, self.alias, networks),
                spans=spans.run,
                **followers,
                **metrics.loops(self.bus, spans, feeds.followers, reporter),
                **loops,
            )


def _open_bus(enrolment: Enrolment, access: BusPass, ca_file: Path | None, emit: Emitter) -> NatsBus:
    node, servers = enrolment.node, (enrolment.answer.bus.url,)
    options = NatsOptions(
        servers=servers,
        name=f"{node.role}/{node.node_id}",
        inbox_prefix=subjects.reply_prefix(node.node_id),
        tls=context_for(servers, ca_file),
        probe_interval_s=EVERY_S,
    )
    return NatsBus(options, access.credentials, probe=emit.probe)


class InterfaceGoneError(RuntimeError):
    """Our interface vanished, or is another one: the process ends, and its next life makes a new key for it."""


async def _watch_host(interface: str, alias: str, networks: list[str], stop: asyncio.Event) -> None:
    """Keep `networks` current; raise :class:`InterfaceGoneError` when our interface is gone (its engine died)."""
    networks[:] = await host_networks(interface)
    watcher = changes()
    stopped = asyncio.create_task(stop.wait())
    while not stop.is_set():
        changed = asyncio.ensure_future(anext(watcher))
        await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not changed.done():
            changed.cancel()
            continue
        ours = await find_interface(interface)
        if ours is None or ours.alias != alias:
            raise InterfaceGoneError(f"interface {interface}: it vanished, starting anew makes another one")
        networks[:] = await host_networks(interface)


async def host_networks(interface: str) -> list[str]:
    """The networks that this host uses, our own interface left out, as CIDR texts."""
    ours = await find_interface(interface)
    return [str(network) for network in await used_networks([ours.index] if ours else [])]
