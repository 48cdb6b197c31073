"""The live view: what happens, as server-sent events, encoded once for all who look.

Events and reports of a moment are gathered into one piece of bytes, and each open view has a short queue of such
pieces. Who does not keep up is cut off and comes back with the id of the last event that it has.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from kakuremichi.bus.port import Bus, Message, Subscription
from kakuremichi.runtime.trace_context import TRACEPARENT, trace_id
from kakuremichi.wire import subjects
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.requests import Report
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.shapes import Event, KeyedError

GATHER_S = 0.2
HEARTBEAT_S = 15.0
MOST_STREAMS = 1000
MOST_PER_CALLER = 100
QUEUE = 64  # pieces: some 13 s of a busy deployment
MOST_GATHERED = 4 * 1024 * 1024
HEARTBEAT = b": still here\n\n"
END = b""


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event `node`: what a node's newest report says otherwise than the one before it."""

    node: str
    cursors: dict[str, int]
    errors: tuple[KeyedError, ...]


@dataclass(eq=False)
class View:
    """One open stream. `cut` ends its connection at once, also while something is being written to it."""

    caller: str
    cut: Callable[[], None]
    pieces: "asyncio.Queue[bytes]" = field(default_factory=lambda: asyncio.Queue(QUEUE))


class Live:
    def __init__(self, *, most: int = MOST_STREAMS, most_per_caller: int = MOST_PER_CALLER) -> None:
        self._most, self._most_per_caller = most, most_per_caller
        self._views: set[View] = set()
        self._callers: Counter[str] = Counter()
        self._events: list[bytes] = []
        self._gathered = 0
        self._nodes: dict[str, Report] = {}
        self._said: dict[str, NodeChange] = {}
        self._wake = asyncio.Event()
        self.slow = 0  # views that were cut off
        self.refused = 0  # facts that could not be read

    def __len__(self) -> int:
        return len(self._views)

    async def listen(self, bus: Bus) -> Subscription:
        return await bus.subscribe(subjects.AUDIT, self.hear_fact)

    async def hear_fact(self, message: Message) -> None:
        if not self._views or self._gathered > MOST_GATHERED:
            return
        try:
            fact = msgspec.json.decode(message.data, type=LoggedFact)
        except msgspec.MsgspecError:
            self.refused += 1
            return
        piece = frame(event_of(fact, trace_id(message.headers.get(TRACEPARENT, ""))))
        self._events.append(piece)
        self._gathered += len(piece)
        self._wake.set()

    def hear_report(self, report: Report) -> None:
        if self._views:
            self._nodes[report.node_id] = report
            self._wake.set()

    def open(self, caller: str, cut: Callable[[], None]) -> View:
        """:class:`ProblemError` 429 if there are too many already, of this caller or of all."""
        if self._callers[caller] >= self._most_per_caller or len(self._views) >= self._most:
            whose = f"{caller} has" if self._callers[caller] >= self._most_per_caller else "there are"
            detail = f"{whose} as many live views open as are allowed; close one, or try again later"
            raise ProblemError(429, "too-many-views", detail, headers={"Retry-After": "30"})
        view = View(caller, cut)
        self._views.add(view)
        self._callers[caller] += 1
        return view

    def close(self, view: View) -> None:
        """May be repeated."""
        if view in self._views:
            self._views.discard(view)
            self._callers[view.caller] -= 1
            if not self._callers[view.caller]:
                del self._callers[view.caller]

    def end(self) -> None:
        """Let every stream come to its end: the portal is about to."""
        for view in list(self._views):
            self._push(view, END)

    async def run(self, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait({woken, stopped}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if self._wake.is_set():
                    await asyncio.wait({stopped}, timeout=GATHER_S)
                self._wake.clear()
                self.flush()
        finally:
            stopped.cancel()
            self.end()

    def flush(self) -> None:
        """Give everybody what was gathered, or a sign of life if there was nothing."""
        changes = [change for report in self._nodes.values() if (change := self._news(report)) is not None]
        piece = b"".join((*self._events, *(_sse("node", change) for change in changes))) or HEARTBEAT
        self._events, self._gathered = [], 0
        self._nodes.clear()
        for view in list(self._views):
            self._push(view, piece)
        if not self._views:
            self._said.clear()

    def _news(self, report: Report) -> NodeChange | None:
        change = NodeChange(
            node=report.node_id,
            cursors={cursor.feed: cursor.feed_seq for cursor in report.cursors},
            errors=tuple(KeyedError(key=error.key, message=error.message) for error in report.errors),
        )
        if self._said.get(report.node_id) == change:
            return None
        self._said[report.node_id] = change
        return change

    def _push(self, view: View, piece: bytes) -> None:
        try:
            view.pieces.put_nowait(piece)
        except asyncio.QueueFull:
            self.slow += 1
            self.close(view)
            view.cut()


def event_of(fact: LoggedFact, trace: str) -> Event:
    return Event(
        seq=fact.seq, at=fact.at, actor=fact.actor, topic=fact.topic, fact=msgspec.Raw(fact.fact.encode()),
        trace_id=trace, head=fact.hash,
    )  # fmt: skip


def frame(event: Event) -> bytes:
    """With its `seq` as id: browsers say it when they come back."""
    return f"id: {event.seq}\n".encode() + _sse("event", event)


def _sse(name: str, data: object) -> bytes:
    # JSON of msgspec has no line ends, which would end the data.
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data).replace(b"\n", b" ") + b"\n\n"
