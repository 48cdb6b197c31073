"""Names of targets: asked at the site, judged by its allow file, and never forgotten because nobody answers."""

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakuremichi.model.addresses import IPAddress
from kakuremichi.reconcile.holding import Key
from kakuremichi.wire.records import IPV6_OF_NAME, Target
from kakuremichi_agent.allow import default_allow
from kakuremichi_agent.model import AgentModel
from kakuremichi_agent.names import NameBook, Resolver, ask_the_system
from support.feedmaker import verifier
from support.people import MAIN, target_record

TUNNEL = ip_network("10.9.0.0/24")
LAN = ip_network("192.168.2.0/24")
KEY: Key = ("target", "t")


def named(name: str = "db.lan", target: str = "t") -> Target:
    record = target_record(target, address="")
    return Target(**{field: getattr(record, field) for field in record.__struct_fields__} | {"name": name})


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ip_address, texts))


class Site:
    """An agent's model and a resolver that answers from a table; a name without an entry is unknown."""

    def __init__(self, path: Path) -> None:
        self.model = AgentModel(verifier(), MAIN, TUNNEL, default_allow([LAN], TUNNEL))  # type: ignore[arg-type]
        self.zone: dict[str, tuple[IPAddress, ...]] = {}
        self.redone: list[Key] = []
        self.resolver = Resolver(self.model.names, self.redo, path, resolve=self.resolve)

    async def resolve(self, name: str) -> tuple[IPAddress, ...]:
        if name not in self.zone:
            raise OSError("Name or service not known")
        return self.zone[name]

    def redo(self, keys: Iterable[Key]) -> None:
        self.redone += keys

    def take(self, record: Target | None = None) -> str:
        """The sentence that is reported of the target, "" if none."""
        return self.model.take([(KEY, record)]).errors.get(KEY, "")

    async def ask(self, record: Target) -> str:
        await self.resolver.ask(self.model.names.names())
        return self.take(record)

    @property
    def at(self) -> str:
        return str(self.model.targets["t"].address) if "t" in self.model.targets else ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "names")


async def test_a_name_is_reported_until_it_is_resolved_and_then_published(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.5")

    assert site.take(named()) == "target t: db.lan: is being resolved"
    assert site.model.names.fresh.is_set()
    assert await site.ask(named()) == ""

    assert site.at == "192.168.2.5"
    assert site.redone == [KEY]


async def test_a_name_nobody_knows_is_reported_with_the_resolvers_reason(site: Site) -> None:
    site.take(named())

    assert "db.lan: the site's resolver knows no address (Name or service not known)" in await site.ask(named())
    assert site.at == ""


@pytest.mark.parametrize("address", ["8.8.8.8", "169.254.169.254", "10.9.0.1"])
async def test_no_answer_of_a_resolver_opens_what_the_site_does_not_permit(site: Site, address: str) -> None:
    site.zone["db.lan"] = addresses(address)
    site.take(named())

    assert address in await site.ask(named())
    assert site.at == ""


async def test_of_several_addresses_one_that_is_permitted_is_taken(site: Site) -> None:
    site.zone["db.lan"] = addresses("8.8.8.8", "192.168.2.9", "192.168.2.5")
    site.take(named())

    assert await site.ask(named()) == ""
    assert site.at == "192.168.2.5"


async def test_an_address_stays_in_use_as_long_as_the_name_has_it(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())
    site.zone["db.lan"] = addresses("192.168.2.5", "192.168.2.9")

    await site.ask(named())

    assert site.at == "192.168.2.9"


async def test_a_name_that_moves_takes_its_targets_along(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())
    site.zone["db.lan"] = addresses("192.168.2.5")
    site.redone.clear()

    assert await site.ask(named()) == ""

    assert site.at == "192.168.2.5"
    assert site.redone == [KEY]


async def test_a_resolver_that_fails_takes_nothing_away_and_is_reported_until_it_answers(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())
    del site.zone["db.lan"]

    assert "its last address 192.168.2.9 is kept" in await site.ask(named())
    assert site.at == "192.168.2.9"
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.redone.clear()
    assert await site.ask(named()) == ""
    assert site.redone == [KEY]


async def test_a_name_that_moves_to_where_nothing_may_be_published_stays_where_it_was(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())
    site.zone["db.lan"] = addresses("169.254.169.254")

    reported = await site.ask(named())

    assert "169.254.169.254 is link-local" in reported
    assert "its last address 192.168.2.9 is kept" in reported
    assert site.at == "192.168.2.9"


async def test_what_stays_is_judged_by_the_allow_file_too(site: Site) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())
    site.zone["db.lan"] = addresses("169.254.169.254")
    site.model.allow = default_allow([], TUNNEL)

    assert "does not permit 192.168.2.9" in await site.ask(named())
    assert site.at == ""


async def test_after_a_restart_the_last_answers_serve_without_a_resolver(site: Site, tmp_path: Path) -> None:
    site.zone["db.lan"] = addresses("192.168.2.9")
    site.take(named())
    await site.ask(named())

    later = Site(tmp_path / "names")

    assert later.take(named()) == ""
    assert later.at == "192.168.2.9"
    assert "is kept" in await later.ask(named())


async def test_a_damaged_file_is_no_more_than_no_file(tmp_path: Path) -> None:
    (tmp_path / "names").write_text('{"db.lan": ["nonsense"]}')

    assert Site(tmp_path / "names").take(named()) == "target t: db.lan: is being resolved"


async def test_another_name_or_none_lets_go_of_the_old_one(site: Site) -> None:
    site.zone = {"db.lan": addresses("192.168.2.9"), "web.lan": addresses("192.168.2.5")}
    site.take(named())
    await site.ask(named())

    site.take(named("web.lan"))
    assert site.model.names.names() == {"web.lan"}
    assert await site.ask(named("web.lan")) == ""
    assert site.at == "192.168.2.5"
    site.take(target_record("t"))
    assert (site.at, site.model.names.names(), site.model.names.answers) == ("127.0.0.1", frozenset(), {})


async def test_the_loop_asks_at_once_for_what_is_new_and_again_after_a_while(tmp_path: Path) -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def resolve(name: str) -> tuple[IPAddress, ...]:
        asked.put_nowait(name)
        return addresses("192.168.2.5")

    book, stop = NameBook(), asyncio.Event()
    resolver = Resolver(book, lambda _keys: None, tmp_path / "names", resolve=resolve, every_s=0.05)
    running = asyncio.create_task(resolver.run(stop))
    book.want("t", "db.lan")
    async with asyncio.timeout(20):
        names = [await asked.get() for _ in range(3)]
        book.want("u", "web.lan")
        while await asked.get() != "web.lan":
            pass
    stop.set()
    await running

    assert set(names) == {"db.lan"}


async def test_a_resolver_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def resolve(_name: str) -> tuple[IPAddress, ...]:
        began.set()
        await asyncio.Event().wait()
        return ()

    book, stop = NameBook(), asyncio.Event()
    book.want("t", "db.lan")
    running = asyncio.create_task(Resolver(book, lambda _keys: None, tmp_path / "names", resolve=resolve).run(stop))
    await began.wait()
    stop.set()

    await asyncio.wait_for(running, 5)


async def test_the_systems_own_resolver_knows_this_host() -> None:
    assert IPv4Address("127.0.0.1") in await ask_the_system("localhost")


@pytest.mark.parametrize("name", ["a" * 70 + ".lan", "nul\0.lan"])  # refused before anything leaves this host
async def test_what_is_no_name_is_a_failure_and_not_an_end(site: Site, name: str) -> None:
    resolver = Resolver(site.model.names, site.redo, Path("/nonexistent"), resolve=None)
    site.model.names.want("t", name)

    await resolver.ask({name})

    assert site.model.names.failures[name]


Step = Callable[[NameBook], object]
names = st.sampled_from(["a.lan", "b.lan"])
steps = st.one_of(
    st.builds(lambda t, n: lambda book: book.want(t, n), st.sampled_from("xyz"), names | st.just("")),
    st.builds(lambda n, a: lambda book: book.resolved(n, a), names, st.lists(st.ip_addresses(v=4), max_size=2)),
    st.builds(lambda n: lambda book: book.failed(n, "silence"), names),
)


@given(st.lists(steps, max_size=20))
def test_a_book_knows_only_what_somebody_wants_and_a_failure_forgets_no_answer(history: list[Step]) -> None:
    book = NameBook()
    for step in history:
        before = dict(book.answers)
        step(book)
        wanted = book.names()
        assert book.answers.keys() | book.failures.keys() <= wanted
        assert {name for name in before if name not in book.answers} <= before.keys() - wanted
        assert all(book.keys(name) for name in wanted)


def to_ipv6() -> Target:
    record = named()
    return Target(**{name: getattr(record, name) for name in record.__struct_fields__} | {"address": IPV6_OF_NAME})


async def test_a_name_stands_for_one_family_whatever_else_its_resolver_says(site: Site) -> None:
    site.model.allow = default_allow([LAN, ip_network("fd00:2::/64")], TUNNEL)
    site.zone["db.lan"] = addresses("fd00:2::5", "192.168.2.5")

    site.take(named())
    assert await site.ask(named()) == ""
    assert site.at == "192.168.2.5"
    assert site.take(to_ipv6()) == ""
    assert site.at == "fd00:2::5"


@pytest.mark.parametrize(("record", "has"), [(named(), "fd00:2::5"), (to_ipv6(), "192.168.2.5")])
async def test_a_name_without_an_address_of_the_family_says_how_it_is_taken(
    site: Site, record: Target, has: str
) -> None:
    site.zone["db.lan"] = addresses(has)
    site.take(record)

    said = await site.ask(record)

    way = "IPv6 only; it is taken with" if ":" in has else "IPv4 only; it is taken without"
    assert said == f"target t: db.lan: has {way} the option upstream.ipv6"
    assert site.at == ""
