"""The flow log, on demand: who visited which service of tcp and udp, and when, as JSON lines in a file.

A target sees the agent, so only the gateway can tell. The file holds addresses of people: it is the owner's alone,
and nobody here ever deletes it. It may be renamed at any time (logrotate): each portion opens it anew.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from kakuremichi.dataplane.nftables.flow_events import FlowEvent, FlowEvents
from kakuremichi.runtime.files import append_private

log = structlog.get_logger()

ACCOUNTING = {"net/netfilter/nf_conntrack_acct": "1"}  # else no flow has bytes
KEPT = 20_000  # lines that wait for the disk


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One flow that began or ended; bytes count whole packets with their headers, once it has ended."""

    time: datetime
    event: str  # open, end
    service: str
    visitor: str
    visitor_port: int
    port: int
    proto: str
    bytes_in: int | None = None  # from the visitor
    bytes_out: int | None = None


class Dropped(msgspec.Struct, frozen=True):
    """So many events are not in the file, or the kernel lost some so many times."""

    time: datetime
    dropped: int
    lost: int


@dataclass
class FlowLog:
    """`name` gives a service's id for its number; "" if nobody knows it any more."""

    path: Path
    name: Callable[[int], str]
    kept: int = KEPT
    open_events: Callable[[], FlowEvents] = FlowEvents
    dropped: int = 0
    _lines: list[Line] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _told: tuple[int, int] = (0, 0)  # of what was dropped and lost

    def take(self, event: FlowEvent) -> None:
        """Never waits: what finds no room is counted."""
        if len(self._lines) >= self.kept:
            self.dropped += 1
            return
        self._lines.append(line_of(event, self.name(event.number), datetime.now(UTC)))
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; then what waits is written."""
        with self.open_events() as events:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(events))
                waking = tasks.create_task(self._wake_at(stop))
                while not stop.is_set():
                    await self._wake.wait()
                    self._wake.clear()
                    await self.write(events.lost)
                reading.cancel()
                waking.cancel()
            await self.write(events.lost)

    async def _read(self, events: FlowEvents) -> None:
        async for event in events:
            self.take(event)

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def write(self, lost: int = 0) -> None:
        """Append what waits; a disk that refuses it costs these lines and no visitor anything."""
        lines: list[Line | Dropped] = [*self._lines]
        self._lines = []
        if (self.dropped, lost) != self._told:
            self._told = (self.dropped, lost)
            lines.append(Dropped(datetime.now(UTC), self.dropped, lost))
        if not lines:
            return
        try:
            await asyncio.to_thread(append_private, self.path, b"".join(msgspec.json.encode(e) + b"\n" for e in lines))
        except OSError as error:
            self.dropped += len(lines)
            log.warning("flow log not written", file=str(self.path), lines=len(lines), reason=str(error))


def line_of(event: FlowEvent, service: str, now: datetime) -> Line:
    return Line(
        time=now,
        event="end" if event.ended else "open",
        service=service,
        visitor=str(event.visitor),
        visitor_port=event.visitor_port,
        port=event.port,
        proto=event.proto,
        bytes_in=event.bytes_in,
        bytes_out=event.bytes_out,
    )
