"""Make HAProxy serve the desired services: one at a time as they change, or all of them compared with what is there.

A change is done at run time first, in about a millisecond; the files follow within SAVE_S, always before a reload
and at the end. If HAProxy dies in between, it starts from the older files, and the watch meets another process and
compares everything. If we die in between, the comparison at our own start mends it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from kakuremichi.dataplane.haproxy.book import Book
from kakuremichi.dataplane.haproxy.client import ProxyError, ProxyUnavailableError
from kakuremichi.dataplane.haproxy.commands import is_busy
from kakuremichi.dataplane.haproxy.config import described_pool, parse_routes_file
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Tuning
from kakuremichi.dataplane.haproxy.diff import DelMap, RemoveServer, SetMap, Step, cuts, steps_between
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.lingering import Lingering
from kakuremichi.dataplane.haproxy.pool import Pool, PoolExhaustedError
from kakuremichi.dataplane.haproxy.proxy import Outcome, Proxy
from kakuremichi.model.addresses import IPAddress
from kakuremichi.model.ids import ServiceId

log = structlog.get_logger(__name__)

POOL_SIZE = 1024
TICK_S = 0.25
SAVE_S = 0.5
WATCH_S = 1.0
LONGEST_DOUBT_S = 60.0
_MOST_PROBLEMS = 100
_SLICE = 1000  # services taken over before other tasks get their turn


@dataclass(frozen=True, slots=True)
class Report:
    """What one pass did. Done if `errors` is empty; the servers of `pending` get no visitors any more and are removed
    when their last connections have ended.
    """

    outcomes: tuple[Outcome, ...] = ()
    errors: tuple[str, ...] = ()
    pending: tuple[RemoveServer, ...] = ()
    reloaded: bool = False


@dataclass(slots=True)
class _Pass:
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    reloaded: bool = False


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
    ) -> None:
        self._proxy = proxy
        # Until the first pass has read which numbers are taken there is nobody in it.
        self._book = Book(frontend, tuning or Tuning(), layout, Pool(pool_size))
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
        return dict(self._book.pool.owners())

    async def full(self, services: Iterable[HttpService]) -> Report:
        """Replace the whole desired state, compare all of it and save the files, whether HAProxy runs or not."""
        async with self._disk, self._state:
            if not self._opened:
                await self._open()
            await self._take_over({service.id: service for service in services})
            report = await self._pass(self._compare)
            saved = await self._pass(lambda _: self._save())
            return Report(report.outcomes, (*report.errors, *saved.errors), report.pending, report.reloaded)

    async def compare(self) -> Report:
        """Compare everything with what HAProxy really holds."""
        async with self._disk, self._state:
            self._check_opened()
            return await self._pass(self._compare)

    async def put(self, service: HttpService) -> Report:
        """Add one service or replace it whole."""
        async with self._state:
            self._check_opened()
            keys = self._book.keys_of(service.id) | {service.route_key}
            with suppress(PoolExhaustedError):
                number = self._book.put(service)
                return await self._pass(lambda run: self._change(run, number, keys))
        async with self._disk, self._state:
            self._book.pool.grow(1)
            self._book.put(service)
            self._touch()
            return await self._pass(self._compare)  # the pool is part of the description, so this reloads

    async def remove(self, service: ServiceId, *, cut: bool = False) -> Report:
        """Take the name away, then the servers; `cut` ends their open connections too. May be repeated."""
        async with self._state:
            self._check_opened()
            number, keys = self._book.pool.number(service), self._book.keys_of(service)
            self._book.remove(service)
            if number is None:
                return Report()
            return await self._pass(lambda run: self._change(run, number, keys, cut=cut))

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
        size = self._book.pool.size
        try:
            running, actual = await self._proxy.running(), await self._proxy.read()
            routes = [route for values in actual.routes.values() for route in values if route is not None]
            size = max(size, described_pool(running.description) or 0)
        except ProxyError:
            saved = await self._proxy.saved()
            routes = list(parse_routes_file(saved.routes).values()) if saved else []
        self._book.pool = Pool(size, {route.service: route.number for route in routes})
        self._opened = True

    async def _take_over(self, services: dict[ServiceId, HttpService]) -> None:
        book = self._book
        for gone in [known for known in book.services() if known not in services]:
            book.remove(gone)
            self._touch()
        book.pool.grow(sum(book.pool.number(service) is None for service in services))
        for count, service in enumerate(services.values()):
            if book.services().get(service.id) != service or not book.keys_of(service.id):
                book.put(service)
                self._touch()
            if count % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    async def _pass(self, work: Callable[[_Pass], Awaitable[None]]) -> Report:
        run = _Pass()
        try:
            await work(run)
        except ProxyError as error:
            self._compared_pid = 0
            run.errors.append(str(error))
        self._problems = (*self._problems, *run.errors)[-_MOST_PROBLEMS:]
        return Report(tuple(run.outcomes), tuple(run.errors), self.pending, run.reloaded)

    async def _change(self, run: _Pass, number: int, keys: frozenset[str], *, cut: bool = False) -> None:
        self._touch()
        wanted = self._book.wanted_part((number,), keys)
        outcomes = await self._proxy.change((number,), sorted(keys), lambda seen: steps_between(seen, wanted, cut=cut))
        self._note(run, outcomes)
        self._settle(run, (number,))

    async def _cut(self, run: _Pass, addresses: frozenset[str]) -> None:
        actual = await self._proxy.read()
        await self._apply(run, cuts(actual, addresses))

    async def _compare(self, run: _Pass) -> None:
        running = await self._proxy.running()
        if running.description != self._book.description():
            await self._reload(run)
            running = await self._proxy.running()
        actual = await self._proxy.read()
        steps = await asyncio.to_thread(steps_between, actual, self._book.wanted())
        self._lingering.clear()
        await self._apply(run, steps)
        self._settle(run, list(self._book.pool.owners()))
        self._compared_pid = 0 if run.errors else running.pid
        self._problems = ()  # those of this pass follow

    async def _reload(self, run: _Pass) -> None:
        freed, files = self._book.freed(), self._book.files()
        try:
            await self._proxy.reload(files)
        except ProxyUnavailableError:
            raise
        except ProxyError as error:  # the old worker goes on: give it what it can take
            run.errors.append(str(error))
        else:
            run.reloaded = True
            self._saved(freed)

    async def _apply(self, run: _Pass, steps: Sequence[Step]) -> None:
        self._note(run, await self._proxy.apply(steps))

    def _note(self, run: _Pass, outcomes: Iterable[Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        for outcome in outcomes:
            run.outcomes.append(outcome)
            if isinstance(outcome.step, RemoveServer) and outcome.error and is_busy(outcome.error):
                self._lingering.refused(outcome.step, now)
            elif outcome.error:
                self._compared_pid = 0
                run.errors.append(self._sentence(outcome))
            elif isinstance(outcome.step, RemoveServer):
                self._lingering.gone(outcome.step)

    def _sentence(self, outcome: Outcome) -> str:
        number = getattr(outcome.step, "number", None)
        subject = self._book.pool.owner(number) if number is not None else getattr(outcome.step, "key", None)
        return f"{subject or f'p{number}'}: {type(outcome.step).__name__}: {outcome.error}"

    def _settle(self, run: _Pass, numbers: Iterable[int]) -> None:
        """Backends without an owner that are empty now may be given away, unless a name still leads there."""
        if any(outcome.error and isinstance(outcome.step, DelMap | SetMap) for outcome in run.outcomes):
            return
        failed = {outcome.step.number for outcome in run.outcomes if outcome.error and hasattr(outcome.step, "number")}
        kept = failed | self._lingering.numbers()
        for number in numbers:
            owner = self._book.pool.owner(number)
            if owner is not None and owner not in self._book and number not in kept:
                self._book.free(owner)
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

    def _saved(self, freed: Iterable[ServiceId], *, keep: float | None = None) -> None:
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

            async def retry(run: _Pass) -> None:
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
