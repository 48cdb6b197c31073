"""Keeps looking at the firewalls of other programs: which services they block, and, if asked to, one rule against it.

Woken by the kernel's own news of rulesets and routes; nothing is polled. What is found goes into the report beside
the errors of records, under the keys of the services concerned.
"""

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import click
import structlog

from kakuremichi.dataplane.foreign import kernel
from kakuremichi.dataplane.foreign.findings import Finding, Flow, findings, may_be_dropped
from kakuremichi.dataplane.foreign.host import Host, read_host
from kakuremichi.dataplane.foreign.mending import Mending, is_there
from kakuremichi.dataplane.foreign.program import Ruleset
from kakuremichi.dataplane.links import networks
from kakuremichi.reconcile.holding import Key

log = structlog.get_logger()

manage_firewall_option = click.option(
    "--manage-firewall",
    is_flag=True,
    help="Add one accept for our traffic where a firewall of somebody else (ufw, Docker, firewalld) drops it.",
)

TOPIC = "firewall"
MOST_SAID = 64  # a report holds no more
JUDGED_AT_ONCE = 64  # services whose facts are new: the rest in the next report
MOST_FLOWS = 20_000  # remembered
BUSY_SHARE = 10.0  # a program that rewrites its rules all the time costs us one part in so many


class Traffic(Protocol):
    """What a node's services live by. Pure; `host` is where it runs."""

    def general(self, host: Host) -> tuple[Flow, ...]:
        """With all that differs between services left open. If none of them can be dropped, no service's can."""
        ...

    def own(self, host: Host) -> tuple[Flow, ...]:
        """What the node itself needs, with services or without."""
        ...

    def services(self) -> Mapping[Key, object]:
        """The facts on which the verdict depends, by the key of the record; the same object while nothing changes."""
        ...

    def flows(self, facts: object, host: Host) -> tuple[Flow, ...]:
        """All of them are needed."""
        ...


@dataclass
class Firewalls:
    """`report` asks for a report soon, `warn` puts a sentence into it (as of :class:`Reporter`)."""

    traffic: Traffic
    manage: bool
    report: Callable[[], None]
    warn: Callable[[str, str], None]
    _ruleset: Ruleset = field(default_factory=Ruleset)
    _host: Host = field(default_factory=Host)
    _clear: bool = True  # nothing of ours can be dropped, whatever service comes
    _by_flow: dict[Flow, tuple[Finding, ...]] = field(default_factory=dict)
    _known: dict[Key, object] = field(default_factory=dict)  # services judged, and the facts that they had then
    _blocked: dict[Key, tuple[Finding, ...]] = field(default_factory=dict)
    _refused: dict[Mending, str] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def errors(self) -> Mapping[Key, str]:
        """A sentence for each service that somebody else's firewall blocks. Called with every report."""
        if self._clear:
            return {}
        services = self.traffic.services()
        self._judge_services(services)
        if self.manage and self._to_mend():
            self._wake.set()
        said = (key for key in self._blocked if key in services)
        return {key: self._sentence(self._blocked[key]) for key in heapq.nsmallest(MOST_SAID, said)}

    def _judge_services(self, services: Mapping[Key, object]) -> None:
        left = JUDGED_AT_ONCE
        for key, facts in services.items():
            if self._known.get(key) is facts:
                continue
            if left == 0:
                self.report()
                return
            left -= 1
            self._known[key] = facts
            self._blocked.pop(key, None)
            if found := self._judge(self.traffic.flows(facts, self._host)):
                self._blocked[key] = found
        if len(self._known) > len(services):
            for key in self._known.keys() - services.keys():
                del self._known[key]
                self._blocked.pop(key, None)

    async def run(self, stop: asyncio.Event) -> None:
        watchers = [
            asyncio.create_task(self._watch(kernel.changes())),
            asyncio.create_task(self._watch(networks.changes())),
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.sleep(0)  # they listen from now on: nothing that comes after the first look is missed
            while not stop.is_set():
                began = time.monotonic()
                await self._look()
                await asyncio.wait({stopped}, timeout=BUSY_SHARE * (time.monotonic() - began))
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait({stopped, woken, *watchers}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                for watcher in watchers:
                    if watcher.done():
                        watcher.result()  # it never ends by itself: this raises what ended it
        finally:
            for task in (*watchers, stopped):
                task.cancel()
            await asyncio.gather(*watchers, stopped, return_exceptions=True)

    async def _watch(self, news: AsyncIterator[None]) -> None:
        async for _ in news:
            self._wake.set()

    async def _look(self) -> None:
        self._wake.clear()
        try:
            self._ruleset, self._host = await kernel.read_ruleset(), await read_host()
        except OSError as error:
            self.warn(TOPIC, f"firewalls of other programs cannot be looked at: {error.strerror}")
            return
        self._by_flow.clear()
        self._known.clear()
        self._blocked.clear()
        own = self.traffic.own(self._host)
        flows = (*self.traffic.general(self._host), *own)
        self._clear = not any(may_be_dropped(self._ruleset, flow) for flow in flows)
        found = self._judge(flows)
        self.errors()
        log.info("foreign firewalls", chains=[str(base.place) for base in self._ruleset.bases],
                 blocked=sorted({str(each.base) for each in found}))  # fmt: skip
        if self.manage:
            await self._mend()
        self.warn(TOPIC, self._sentence(self._judge(own)))
        self.report()

    def _judge(self, flows: tuple[Flow, ...]) -> tuple[Finding, ...]:
        found: dict[Finding, None] = {}
        if len(self._by_flow) > MOST_FLOWS:
            self._by_flow.clear()  # services that are gone
        for flow in flows:
            if flow not in self._by_flow:
                self._by_flow[flow] = findings(self._ruleset, flow)
            found.update(dict.fromkeys(self._by_flow[flow]))
        return tuple(found)

    def _to_mend(self) -> set[Mending]:
        """One rule that is there already and does not help is not put a second time."""
        wanted = {each.mending for found in self._by_flow.values() for each in found}
        return {each for each in wanted if each not in self._refused and not is_there(self._ruleset, each)}

    async def _mend(self) -> None:
        self._refused.clear()
        for mending in sorted(self._to_mend(), key=lambda each: each.command):
            try:
                await kernel.insert(mending)
            except OSError as error:
                self._refused[mending] = error.strerror or str(error)
            else:
                log.info("foreign firewall mended", place=str(mending.place), rule=mending.command)

    def _sentence(self, found: tuple[Finding, ...]) -> str:
        return "; ".join(
            each.sentence + (f" (not possible: {self._refused[each.mending]})" if each.mending in self._refused else "")
            for each in found
        )
