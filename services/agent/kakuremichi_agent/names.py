"""Targets that have a name: asked of the site's own resolver, and again every 30 s.

What was resolved once stays in use until another answer comes: a resolver that is silent interrupts nobody.
"""

import asyncio
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import msgspec
import structlog

from kakuremichi.model.addresses import IPAddress
from kakuremichi.reconcile.holding import Key
from kakuremichi.runtime.files import write_atomically

log = structlog.get_logger()

EVERY_S = 30.0  # ± 20 %
PATIENCE_S = 10.0
AT_ONCE = 8

Resolve = Callable[[str], Awaitable[tuple[IPAddress, ...]]]


@dataclass
class NameBook:
    """Which targets have which name, and what is known of each. Pure; `fresh` is set when a name was not asked yet."""

    answers: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)  # the last good ones
    failures: dict[str, str] = field(default_factory=dict)  # of the last attempt, if it failed
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    _names: dict[str, str] = field(default_factory=dict)  # by target
    _asked: set[str] = field(default_factory=set)

    def want(self, target: str, name: str) -> None:
        """`name` "" is a target that has none."""
        if self._names.get(target, "") == name:
            return
        old = self._names.pop(target, "")
        if name:
            self._names[target] = name
            if name not in self._asked:
                self.fresh.set()
        if old and old not in self._names.values():
            self._asked.discard(old)
            self.answers.pop(old, None)
            self.failures.pop(old, None)

    def names(self) -> frozenset[str]:
        return frozenset(self._names.values())

    def unasked(self) -> frozenset[str]:
        return self.names() - self._asked

    def answers_wanted(self) -> dict[str, tuple[IPAddress, ...]]:
        return {name: self.answers[name] for name in self.names() & self.answers.keys()}

    def keys(self, name: str) -> tuple[Key, ...]:
        return tuple(("target", target) for target, its in self._names.items() if its == name)

    def resolved(self, name: str, addresses: Iterable[IPAddress]) -> bool:
        """Whether that is news: another set of addresses, or the end of a failure."""
        if name not in self.names():
            return False  # nobody wants it any more
        self._asked.add(name)
        answer = tuple(sorted(set(addresses), key=lambda address: (address.version, int(address))))
        news = self.answers.get(name) != answer or name in self.failures
        self.answers[name] = answer
        self.failures.pop(name, None)
        return news

    def failed(self, name: str, reason: str) -> bool:
        """Whether that is news: the first failure after an answer. The last answer stays."""
        if name not in self.names():
            return False
        self._asked.add(name)
        news = name not in self.failures
        self.failures[name] = reason
        return news


class Resolver:
    """Keeps a book of names current, on disk too: a restart in a silent network begins with the last answers."""

    def __init__(
        self,
        book: NameBook,
        redo: Callable[[Iterable[Key]], None],
        path: Path,
        *,
        resolve: Resolve | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._book, self._redo, self._path = book, redo, path
        self._resolve, self._every_s = resolve or ask_the_system, every_s
        self._saved = read_answers(path)
        book.answers.update(self._saved)

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        again_at = loop.time()
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            self._book.fresh.clear()
            names = self._book.unasked()
            if loop.time() >= again_at:
                names = self._book.names()
                again_at = loop.time() + self._every_s * random.uniform(0.8, 1.2)
            asking = asyncio.create_task(self.ask(names))
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                break
            asking.result()
            fresh = asyncio.create_task(self._book.fresh.wait())
            pause = max(0.0, again_at - loop.time())
            await asyncio.wait({fresh, stopping}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            fresh.cancel()
        stopping.cancel()

    async def ask(self, names: Collection[str]) -> None:
        """Resolve these; whose targets are to be looked at again is told at once, name by name."""
        if not names:
            return
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with turns:
                await self._ask_one(name)

        async with asyncio.TaskGroup() as tasks:
            for name in sorted(names):
                tasks.create_task(one(name))
        answers = self._book.answers_wanted()
        if answers != self._saved:
            await asyncio.to_thread(write_answers, self._path, answers)
            self._saved = answers

    async def _ask_one(self, name: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                addresses = await self._resolve(name)
        except TimeoutError:
            news = self._book.failed(name, f"the site's resolver gave no answer within {PATIENCE_S:.0f} s")
        except (OSError, ValueError) as error:  # names that are no names are UnicodeError
            news = self._book.failed(name, f"the site's resolver knows no address ({error})")
        else:
            news = self._book.resolved(name, addresses)
        if news:
            known = [str(address) for address in self._book.answers.get(name, ())]
            log.info("name resolved", name=name, addresses=known, failure=self._book.failures.get(name, ""))
            self._redo(self._book.keys(name))


async def ask_the_system(name: str) -> tuple[IPAddress, ...]:
    """By whatever the site's host is set up for: its hosts file, its DNS. Raises OSError or UnicodeError.

    In a thread that nobody waits for at the end: a resolver without a network may take half a minute.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[IPAddress, ...]] = loop.create_future()

    def tell(addresses: tuple[IPAddress, ...], error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(error)

    def look() -> None:
        addresses: tuple[IPAddress, ...] = ()
        problem: Exception | None = None
        try:
            rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            # A link-local address comes with its interface, which means nothing to the kernel's translation.
            addresses = tuple(ip_address(str(place[0]).partition("%")[0]) for *_, place in rows)
        except (OSError, ValueError) as error:
            problem = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, addresses, problem)

    threading.Thread(target=look, name=f"resolve {name}", daemon=True).start()
    return await answer


def read_answers(path: Path) -> dict[str, tuple[IPAddress, ...]]:
    """What was known when the process ended. They are hints: the allow file judges them anew."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        return {name: tuple(map(ip_address, addresses)) for name, addresses in kept.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("names not read", file=str(path), reason=str(error))
        return {}


def write_answers(path: Path, answers: dict[str, tuple[IPAddress, ...]]) -> None:
    try:
        write_atomically(path, msgspec.json.encode({name: [str(a) for a in held] for name, held in answers.items()}))
    except OSError as error:
        # A full disk must not end the node: only a restart would miss them.
        log.warning("names not saved", file=str(path), reason=str(error))
