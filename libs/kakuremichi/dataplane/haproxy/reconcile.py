"""Make HAProxy serve the desired services: one at a time as they change, or all of them compared with what is there.

A change is done at run time first, in about a millisecond; the files follow within SAVE_S, always before a reload
and at the end. If HAProxy dies in between, it starts from the older files, and the watch meets another process and
compares everything. If we die in between, the comparison at our own start mends it.

Other rules of a service (its options) need a reload. Changes that wait for one share it, and are reported when it is
done; until then visitors meet the service as it was, a new one not at all: never without its rules.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from kakuremichi.dataplane.haproxy.book import Book, Place, joined
from kakuremichi.dataplane.haproxy.capabilities import OLDEST, Capabilities
from kakuremichi.dataplane.haproxy.client import ProxyError
from kakuremichi.dataplane.haproxy.commands import is_busy
from kakuremichi.dataplane.haproxy.config import Settings, described
from kakuremichi.dataplane.haproxy.desired import Frontend, Service, Tuning
from kakuremichi.dataplane.haproxy.diff import DelMap, RemoveServer, SetMap, Step, cuts, steps_between
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.lingering import Lingering
from kakuremichi.dataplane.haproxy.naming import backend_name
from kakuremichi.dataplane.haproxy.pool import PoolExhaustedError, Pools
from kakuremichi.dataplane.haproxy.proxy import Outcome, Proxy, ProxyRefusedError
from kakuremichi.dataplane.haproxy.reloading import Shared
from kakuremichi.dataplane.haproxy.rendering import parse_maps
from kakuremichi.dataplane.haproxy.report import Pass, Report
from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import ServiceId

log = structlog.get_logger(__name__)

POOL_SIZE = 1024
TCP_POOL_SIZE = 256
TICK_S = 0.25
SAVE_S = 0.5
WATCH_S = 1.0
LONGEST_DOUBT_S = 60.0
_MOST_PROBLEMS = 100
_AT_ONCE = 500  # services changed in one conversation
_SLICE = 1000  # services taken over before other tasks get their turn


class Reconciler:
    """Owns one HAProxy. Calls may overlap: they are carried out one after the other. `full` comes first."""

    def __init__(
        self,
        proxy: Proxy,
        frontend: Frontend,
        layout: Layout,
        tuning: Tuning | None = None,
        *,
        pool_size: int = POOL_SIZE,
        tcp_pool_size: int = TCP_POOL_SIZE,
        capabilities: Capabilities = OLDEST,
    ) -> None:
        self._proxy = proxy
        # Until the first pass has read which numbers are taken there is nobody in it.
        sizes = pool_size, tcp_pool_size if frontend.tcp else 0
        self._book = Book(Settings(layout, frontend, tuning or Tuning(), capabilities), Pools.of(*sizes))
        self._reloads = Shared(self.compare)
        self._changes = Shared(self._change_all, most=_AT_ONCE)
        self._changed: dict[int, Place] = {}  # by the tickets of `_changes`: what has changed in the book
        self.before_reload: Callable[[], Awaitable[object]] | None = None
        """Called with the old worker still there, whose counters end with it."""
        self._opened = False
        self._lingering = Lingering()
        self._state = asyncio.Lock()
        self._disk = asyncio.Lock()  # taken before _state where both are: an older snapshot never overwrites a newer
        self._unsaved_since: float | None = 0.0  # of the event loop's clock; None: the files are as the book
        self._compared_pid = 0  # 0: HAProxy may hold anything
        self._doubt_s = WATCH_S
        self._watch_at = 0.0
        self._problems: tuple[str, ...] = ()

    @property
    def pending(self) -> tuple[RemoveServer, ...]:
        """Servers in maintenance whose last connections are being waited for."""
        return self._lingering.steps()

    @property
    def problems(self) -> tuple[str, ...]:
        """What HAProxy refused since the last full comparison, and in it; () once a comparison found all in place."""
        return self._problems

    @property
    def owners(self) -> dict[int, ServiceId]:
        """Backend number to service, for the counters."""
        return self._book.pools.owners()

    async def full(self, services: Iterable[Service]) -> Report:
        """Replace the whole desired state, compare all of it and save the files, whether HAProxy runs or not."""
        async with self._disk, self._state:
            if not self._opened:
                await self._open()
            await self._take_over({service.id: service for service in services})
            report = await self._pass(self._compare)
            saved = await self._pass(lambda _: self._save())
            return replace(report, errors=(*report.errors, *saved.errors))

    async def compare(self) -> Report:
        """Compare everything with what HAProxy really holds."""
        async with self._disk, self._state:
            self._check_opened()
            return await self._pass(self._compare)

    async def put(self, service: Service) -> Report:
        """Add one service or replace it whole. Raises ServiceRefusedError."""
        async with self._state:
            self._check_opened()
            before = self._book.place_of(service.id)
            try:
                self._book.put(service)
            except PoolExhaustedError:
                self._book.grow_for(service)
                self._book.put(service)
            self._touch()
            if self._book.can_change(service.id):
                shared, ticket = self._changes, self._ask_change(before | self._book.place_of(service.id))
            else:
                shared, ticket = self._reloads, self._reloads.ask()
        return (await shared.done(ticket)).concerning(service.id)

    async def remove(self, service: ServiceId, *, cut: bool = False) -> Report:
        """Take the name away, then the servers; `cut` ends their open connections too. May be repeated."""
        async with self._state:
            self._check_opened()
            place = self._book.place_of(service)
            self._book.remove(service)
            if not place.numbers:
                return Report()
            if cut:
                return await self._pass(lambda run: self._change(run, place, cut=True))
            ticket = self._ask_change(place)
        return (await self._changes.done(ticket)).concerning(service)

    async def cut(self, addresses: Iterable[IPAddress]) -> Report:
        """End every connection to these addresses, whatever service it belongs to. May be repeated.

        What is still desired there comes back with the next comparison: take it out of the desired state too.
        """
        async with self._state:
            self._check_opened()
            return await self._pass(lambda run: self._cut(run, frozenset(map(str, addresses))))

    async def run(self, stop: asyncio.Event) -> None:
        """Save files, ask again for refused removals, watch for another HAProxy process; until `stop`."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)
            now = asyncio.get_running_loop().time()
            if self._unsaved_since is not None and self._unsaved_since + SAVE_S <= now:
                await self.flush()
            await self._retry_removals(now)
            if self._watch_at <= now:
                self._watch_at = now + WATCH_S
                await self._watch()
        await self.flush()

    async def flush(self) -> None:
        """Save the files now, if anything has changed. A disk that refuses is logged and tried again later."""
        async with self._disk:
            report = await self._pass(lambda _: self._save())
        if report.errors:
            log.error("haproxy files not saved", errors=report.errors)

    def _check_opened(self) -> None:
        if not self._opened:
            raise RuntimeError("haproxy: `full` must come first, else everything it serves would look superfluous")

    async def _open(self) -> None:
        """Take over the numbers in use, so that no service changes its backend because we were restarted."""
        sizes = self._book.pools.sizes
        try:
            running, actual = await self._proxy.running(), await self._proxy.read()
            routes = [route for values in actual.routes.values() for route in values if route is not None]
            known = described(running.description)
            if known is not None:
                sizes = max(sizes[0], known.http), max(sizes[1], known.tcp)
        except ProxyError:
            saved = await self._proxy.saved()
            routes = list(parse_maps(saved.maps).values()) if saved else []
        self._book.pools = Pools.of(*sizes, {(route.service, route.number): None for route in routes})
        self._opened = True

    async def _take_over(self, services: dict[ServiceId, Service]) -> None:
        book = self._book
        for gone in [known for known in book.services() if known not in services]:
            book.remove(gone)
            self._touch()
        book.grow_for(*services.values())
        for count, service in enumerate(services.values()):
            if book.services().get(service.id) != service or service.route_key not in book.place_of(service.id).keys:
                book.put(service)
                self._touch()
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    async def _pass(self, work: Callable[[Pass], Awaitable[None]]) -> Report:
        run = Pass()
        try:
            await work(run)
        except ProxyError as error:
            self._compared_pid = 0
            run.errors.append(str(error))
        self._problems = (*self._problems, *run.errors)[-_MOST_PROBLEMS:]
        return run.report(self.pending)

    def _ask_change(self, place: Place) -> int:
        ticket = self._changes.ask()
        self._changed[ticket] = place
        return ticket

    async def _change_all(self) -> Report:
        """What the waiting calls have changed, in one conversation: to begin one costs as much as a change in it."""
        async with self._state:
            asked = [ticket for ticket in self._changed if ticket <= self._changes.covering]
            report = await self._pass(lambda run: self._change(run, joined(self._changed[ticket] for ticket in asked)))
            for ticket in asked:
                del self._changed[ticket]
            return report

    async def _change(self, run: Pass, place: Place, *, cut: bool = False) -> None:
        self._touch()
        wanted, numbers = self._book.wanted_part(place), sorted(place.numbers)
        outcomes = await self._proxy.change(
            numbers, sorted(place.keys), lambda seen: steps_between(seen, wanted, cut=cut)
        )
        self._note(run, outcomes)
        self._settle(run, numbers)

    async def _cut(self, run: Pass, addresses: frozenset[str]) -> None:
        actual = await self._proxy.read()
        await self._apply(run, cuts(actual, addresses))

    async def _compare(self, run: Pass) -> None:
        running = await self._proxy.running()
        if not self._book.agrees_with(running.description):
            await self._reload(run)
            running = await self._proxy.running()
        actual = await self._proxy.read()
        steps = await asyncio.to_thread(steps_between, actual, self._book.wanted())
        self._lingering.clear()
        await self._apply(run, steps)
        self._settle(run, list(self._book.pools.owners()))
        self._compared_pid = 0 if run.errors else running.pid
        self._problems = ()  # those of this pass follow

    async def _reload(self, run: Pass) -> None:
        try:
            await self._load(run)
        except ProxyRefusedError as error:
            await self._load_without_culprits(run, error)

    async def _load(self, run: Pass) -> None:
        freed, files = self._book.freed(), self._book.files()
        if self.before_reload is not None:
            with suppress(ProxyError):
                await self.before_reload()
        await self._proxy.reload(files)
        run.reloaded = True
        self._book.has_loaded()
        self._saved(freed)

    async def _load_without_culprits(self, run: Pass, error: ProxyRefusedError) -> None:
        """Those whose rules are new are suspects: first without all of them, then as many as HAProxy takes. If it
        refuses the rest too, none of them is to blame, and everything stays as it is. Raises ProxyRefusedError.
        """
        suspects = self._book.unproven()
        self._book.fall_back(suspects)
        self._touch()
        try:
            await self._load(run)
        except ProxyRefusedError:
            for suspect in suspects:
                self._book.put(suspect)
            raise
        for culprit in await self._admit(run, suspects):
            run.blame(culprit.id, str(error))

    async def _admit(self, run: Pass, suspects: Sequence[Service]) -> list[Service]:
        """Load as many of them as HAProxy takes; the others are returned."""
        if not suspects:
            return []
        for suspect in suspects:
            self._book.put(suspect)
        try:
            await self._load(run)
        except ProxyRefusedError:
            self._book.fall_back(suspects)
        else:
            return []
        if len(suspects) == 1:
            return [*suspects]
        half = len(suspects) // 2
        return [*await self._admit(run, suspects[:half]), *await self._admit(run, suspects[half:])]

    async def _apply(self, run: Pass, steps: Sequence[Step]) -> None:
        self._note(run, await self._proxy.apply(steps))

    def _note(self, run: Pass, outcomes: Iterable[Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        for outcome in outcomes:
            run.outcomes.append(outcome)
            if isinstance(outcome.step, RemoveServer) and outcome.error and is_busy(outcome.error):
                self._lingering.refused(outcome.step, now)
            elif outcome.error:
                self._compared_pid = 0
                self._blame(run, outcome.step, outcome.error)
            elif isinstance(outcome.step, RemoveServer):
                self._lingering.gone(outcome.step)

    def _blame(self, run: Pass, step: Step, error: str) -> None:
        route = getattr(step, "route", None)
        number = getattr(step, "number", route.number if route is not None else None)
        reason = f"{type(step).__name__}: {error}"
        owner = self._book.pools.owner(number) if number is not None else None
        if owner is not None:
            run.blame(owner, reason)
        else:
            run.errors.append(f"{getattr(step, 'key', None) or backend_name(number or 0)}: {reason}")

    def _settle(self, run: Pass, numbers: Iterable[int]) -> None:
        """Backends without an owner that are empty now may be given away, unless a name still leads there."""
        if any(outcome.error and isinstance(outcome.step, DelMap | SetMap) for outcome in run.outcomes):
            return
        failed = {outcome.step.number for outcome in run.outcomes if outcome.error and hasattr(outcome.step, "number")}
        kept = failed | self._lingering.numbers()
        for number in numbers:
            if number not in kept and not self._book.is_used(number) and self._book.pools.owner(number) is not None:
                self._book.free(number)
                self._touch()

    async def _save(self) -> None:
        if self._unsaved_since is None:
            return
        freed, files = self._book.freed(), self._book.files()
        touched, self._unsaved_since = self._unsaved_since, None
        try:
            await self._proxy.save(files)
        except ProxyError:
            self._unsaved_since = touched
            raise
        self._saved(freed, keep=self._unsaved_since)

    def _saved(self, freed: Iterable[int], *, keep: float | None = None) -> None:
        self._book.saved(freed)
        self._unsaved_since = keep

    def _touch(self) -> None:
        if self._unsaved_since is None:
            self._unsaved_since = asyncio.get_running_loop().time()

    async def _retry_removals(self, now: float) -> None:
        if not self._lingering.due(now):
            return
        async with self._state:
            due = self._lingering.due(now)
            for step in due:
                if self._book.wants(step.number, step.name):
                    self._lingering.gone(step)
            numbers = sorted({step.number for step in due})
            still = [step for step in due if not self._book.wants(step.number, step.name)]

            async def retry(run: Pass) -> None:
                await self._apply(run, still)
                self._settle(run, numbers)

            await self._pass(retry)

    async def _watch(self) -> None:
        if not self._opened:
            return
        try:
            running = await self._proxy.running()
        except ProxyError:
            self._compared_pid = 0
            return
        if running.pid == self._compared_pid or running.stopping:
            return
        report = await self.compare()
        # What HAProxy refuses every time must not cost a comparison of everything every second.
        self._doubt_s = min(self._doubt_s * 2, LONGEST_DOUBT_S) if report.errors else WATCH_S
        self._watch_at = asyncio.get_running_loop().time() + self._doubt_s
        log.info("haproxy compared", pid=running.pid, steps=len(report.outcomes), errors=report.errors)
