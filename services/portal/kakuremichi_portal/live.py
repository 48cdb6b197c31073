"""The live view: what happens, as server-sent events, encoded once for all who look.

Events and reports of a moment are gathered into one piece of bytes, and each open view has a short queue of such
pieces; callers with the same limits share one with what they may see. Who does not keep up is cut off and comes back
with the id of the last event that it has. So does who stands no more on what it was let in by, if it still may.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from kakuremichi.bus.port import Bus, Message, Subscription
from kakuremichi.runtime.trace_context import TRACEPARENT, trace_id
from kakuremichi.runtime.waiting import first_of
from kakuremichi.wire import subjects
from kakuremichi.wire.facts import LoggedFact
from kakuremichi.wire.requests import Report
from kakuremichi_portal.places import Lookup, Places
from kakuremichi_portal.principal import EVERYTHING, Scope
from kakuremichi_portal.problems import ProblemError
from kakuremichi_portal.scoping import fact_of, has_fact, node_to_look_up, tells_of_others
from kakuremichi_portal.shapes import Event, KeyedError
from kakuremichi_portal.standing import taken_by

GATHER_S = 0.2
HEARTBEAT_S = 15.0
MOST_STREAMS = 1000
MOST_PER_CALLER = 100
GRACE_S = 1.0  # for the last bytes of a view that has to end
QUEUE = 64  # pieces: some 13 s of a busy deployment
MOST_GATHERED = 4 * 1024 * 1024
HEARTBEAT = b": still here\n\n"
END = b""


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event `node`: what a node's newest report says otherwise than the one before it."""

    node: str
    cursors: dict[str, int]
    errors: tuple[KeyedError, ...]


class Heard(NamedTuple):
    """An event, encoded once for all."""

    piece: bytes
    fact: str


@dataclass(eq=False)
class View:
    """One open stream. `cut` ends its connection at once, also while something is being written to it."""

    caller: str
    cut: Callable[[], None]
    scope: Scope = EVERYTHING
    standing: frozenset[str] = frozenset()  # see kakuremichi_portal.standing
    ready: bool = True  # False: what it may see is not known yet, and nothing is sent to it
    over: bool = False  # its end is on its way
    pieces: "asyncio.Queue[bytes]" = field(default_factory=lambda: asyncio.Queue(QUEUE))


class Live:
    def __init__(
        self, look_up: Lookup, *, most: int = MOST_STREAMS, most_per_caller: int = MOST_PER_CALLER
    ) -> None:  # fmt: skip
        self._most, self._most_per_caller = most, most_per_caller
        self._places = Places(look_up)
        self._views: set[View] = set()
        self._callers: Counter[str] = Counter()
        self._events: list[Heard] = []
        self._gathered = 0
        self._nodes: dict[str, Report] = {}
        self._said: dict[str, NodeChange] = {}
        self._wake = asyncio.Event()
        self.slow = 0  # views that were cut off
        self.refused = 0  # facts that could not be read

    def __len__(self) -> int:
        return len(self._views)

    async def listen(self, bus: Bus) -> Subscription:
        # What was not heard may have been anything: all come back, are asked who they are and told what they missed.
        bus.on_connected(lambda _generation: self._end_all())
        bus.on_overflow(lambda subject: self._end_all() if subject == subjects.AUDIT else None)
        return await bus.subscribe(subjects.AUDIT, self.hear_fact)

    async def hear_fact(self, message: Message) -> None:
        if not self._views:
            return
        try:
            fact = msgspec.json.decode(message.data, type=LoggedFact)
            taken = taken_by(fact)
            self._places.hear(fact)
        except msgspec.MsgspecError:
            self.refused += 1
            return
        self.take_away(taken)
        if self._gathered > MOST_GATHERED:
            return
        piece = frame(event_of(fact, trace_id(message.headers.get(TRACEPARENT, ""))))
        self._events.append(Heard(piece, fact.fact))
        self._gathered += len(piece)
        self._wake.set()

    def take_away(self, taken: frozenset[str]) -> None:
        """End the views of all who stand on any of this."""
        if taken:
            for view in [view for view in self._views if view.standing & taken]:
                self._end(view)

    def hear_report(self, report: Report) -> None:
        if self._views:
            self._nodes[report.node_id] = report
            self._wake.set()

    def open(
        self, caller: str, cut: Callable[[], None], scope: Scope = EVERYTHING, standing: frozenset[str] = frozenset()
    ) -> View:
        """:class:`ProblemError` 429 if there are too many already, of this caller or of all."""
        if self._callers[caller] >= self._most_per_caller or len(self._views) >= self._most:
            whose = f"{caller} has" if self._callers[caller] >= self._most_per_caller else "there are"
            detail = f"{whose} as many live views open as are allowed; close one, or try again later"
            raise ProblemError(429, "too-many-views", detail, headers={"Retry-After": "30"})
        view = View(caller, cut, scope, standing, ready=not scope.limited)
        self._views.add(view)
        self._callers[caller] += 1
        return view

    async def learn(self, view: View) -> None:
        """What a view with limits needs before anything is sent; :class:`ProblemError` if the registry is silent."""
        if not view.ready:
            await self._places.learn()
            view.ready = True

    def close(self, view: View) -> None:
        """May be repeated."""
        if view in self._views:
            self._views.discard(view)
            self._callers[view.caller] -= 1
            if not self._callers[view.caller]:
                del self._callers[view.caller]
            if view.scope.limited and not any(other.scope.limited for other in self._views):
                self._places.forget()

    def end(self) -> None:
        """Let every stream come to its end: the portal is about to."""
        for view in list(self._views):
            self._push(view, END)

    def _end_all(self) -> None:
        self._places.forget()
        for view in list(self._views):
            self._end(view)

    def _end(self, view: View) -> None:
        """End one soon: what waits for it is not sent any more, and a connection that takes nothing is cut."""
        if view.over:
            return
        view.over = True
        while not view.pieces.empty():
            view.pieces.get_nowait()
        view.pieces.put_nowait(END)
        asyncio.get_running_loop().call_later(GRACE_S, self._cut, view)

    def _cut(self, view: View) -> None:
        if view in self._views:
            self.close(view)
            view.cut()

    async def run(self, stop: asyncio.Event) -> None:
        try:
            while not stop.is_set():
                await first_of(self._wake, stop, timeout_s=HEARTBEAT_S)
                if self._wake.is_set():
                    await first_of(stop, timeout_s=GATHER_S)
                self._wake.clear()
                self.flush()
        finally:
            self.end()

    def flush(self) -> None:
        """Give everybody what was gathered, or a sign of life if there was nothing."""
        changes = [change for report in self._nodes.values() if (change := self._news(report)) is not None]
        events, self._events, self._gathered = self._events, [], 0
        self._nodes.clear()
        pieces: dict[Scope, bytes] = {}
        for view in list(self._views):
            if not view.ready:
                continue
            if view.scope not in pieces:
                pieces[view.scope] = self._piece(view.scope, events, changes)
            self._push(view, pieces[view.scope])
        if not self._views:
            self._said.clear()

    def _piece(self, scope: Scope, events: list[Heard], changes: list[NodeChange]) -> bytes:
        if scope.limited:
            events = [event for event in events if self._has_event(scope, event)]
            changes = [self._shown(scope, change) for change in changes if self._places.has(scope, change.node)]
        return b"".join((*(event.piece for event in events), *(_sse("node", each) for each in changes))) or HEARTBEAT

    def _has_event(self, scope: Scope, event: Heard) -> bool:
        fact = fact_of(event.fact)
        return has_fact(scope, fact, has_node=self._places.has(scope, node_to_look_up(fact)))

    def _shown(self, scope: Scope, change: NodeChange) -> NodeChange:
        others = tells_of_others(scope, self._places.role_of(change.node))
        return msgspec.structs.replace(change, errors=()) if others else change

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
        if view.over:
            return
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
