"""The gateway's own place on a real HAProxy: what is not a small, whole, signed exchange does not get far."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy.desired import Frontend
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.visitors import OWN_PER_MINUTE
from kakuremichi.node.direct import DirectRefusedError
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.direct import MAX_EXCHANGE_BYTES, PATH, Exchange
from kakuremichi_agent.direct import NoAnswerError, ask
from kakuremichi_gateway.well_known import MOST_A_SECOND, Allowance, WellKnown
from support.haproxy import gateway, get, targets
from support.haproxy import service as http_service
from support.people import Person

SITE_A = Person("site-a", subnet="10.1.0.0/24")
GW1 = Person("gw1", role="gateway", slot=1)


def exchange(person: Person) -> Exchange:
    return Exchange(certificate=person.certificate(), announcement=person.announcement())


# Made once: certificates bear the second in which they are made.
OWN, SAID = exchange(GW1), exchange(SITE_A)


@dataclass
class Place:
    """One HAProxy with the gateway's service behind it; every call comes from another loopback address unless told."""

    port: int
    taken: list[Exchange] = field(default_factory=list)
    refusing: bool = False
    _sources: int = 1

    def take(self, said: Exchange) -> None:
        self.taken.append(said)
        if self.refusing:
            raise DirectRefusedError("site-a: revoked")

    async def send(self, *parts: bytes, source: str = "", pause_s: float = 0.0) -> bytes:
        """Raw bytes; everything that comes back."""
        self._sources += 1
        local = (source or f"127.0.{self._sources // 250}.{self._sources % 250 + 2}", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=local)
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def status_of_open(self, sent: bytes) -> int:
        """Of a connection that goes on: newer HAProxies hear out whom they answer before his body is whole."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(10):  # the visitor's own time would be 60 s
                return int((await reader.readline()).split(b" ", 2)[1])
        finally:
            writer.close()

    async def status(self, *parts: bytes, source: str = "", pause_s: float = 0.0) -> int:
        answer = await self.send(*parts, source=source, pause_s=pause_s)
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def post(body: bytes, path: str = PATH, *headers: str) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 203.0.113.1",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


@pytest.fixture
async def place(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Place]:
    made = Place(free_port())
    layout = Layout(run_dir)
    stop = asyncio.Event()
    serving = asyncio.create_task(WellKnown(layout.own_socket, made.take, lambda: OWN).run(stop))
    frontend = Frontend(own_service=layout.own_socket)
    async with (
        gateway(run_dir, f"80=127.0.0.1:{made.port}", frontend=frontend) as rig,
        targets(free_port, "app") as (app,),
    ):
        assert (await rig.reconciler.put(http_service("app", app.server()))).errors == ()
        yield made
        stop.set()
        await serving


async def test_an_exchange_is_answered_with_the_gateways_own(place: Place) -> None:
    answer = await place.send(post(encode(SAID)))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    assert decode(body, Exchange) == OWN
    assert place.taken == [SAID]


async def test_the_agents_side_reads_the_answer_and_the_refusal(place: Place) -> None:
    address = ip_address("127.0.0.1")
    doors = (("http", place.port),)

    assert await ask(address, SAID, doors) == OWN

    place.refusing = True
    with pytest.raises(NoAnswerError, match="status 403, site-a: revoked"):
        await ask(address, SAID, doors)


async def test_a_refusal_says_why_and_gives_nothing_away(place: Place) -> None:
    place.refusing = True

    answer = await place.send(post(encode(SAID)))

    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.endswith(b"site-a: revoked\n")


GOOD = encode(SAID)
JUNK = {
    "nothing": (post(b""), 400),
    "random bytes": (post(bytes(range(256)) * 8), 400),
    "one byte too few": (post(GOOD[:-1]), 400),
    "one byte too many": (post(GOOD + b"\x00"), 400),
    "deeply nested": (post(b"\x91" * 16000), 400),
    "a list of a billion": (post(b"\xdd\x3b\x9a\xca\x00"), 400),
    "too large": (post(bytes(MAX_EXCHANGE_BYTES + 1)), 413),
    "chunked and too large": (
        f"POST {PATH} HTTP/1.1\r\nHost: x.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"2000\r\n" + bytes(0x2000) + b"\r\n2000\r\n" + bytes(0x2000) + b"\r\n10\r\n" + bytes(16) + b"\r\n0\r\n\r\n",
        413,
    ),
    "a length and chunks": (post(GOOD, PATH, "Transfer-Encoding: chunked"), 400),
    "another method": (get("203.0.113.1", PATH).encode(), 405),
    "another path": (post(GOOD, "/.well-known/kakuremichi/keys"), 404),
    "up and away": (post(GOOD, "/.well-known/kakuremichi/../../etc/passwd"), 404),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
}  # fmt: skip


@pytest.mark.parametrize("case", JUNK)
async def test_junk_is_refused_before_anybody_judges_it(place: Place, case: str) -> None:
    sent, expected = JUNK[case]

    assert await place.status(sent) == expected
    assert place.taken == []
    assert await place.status(post(GOOD)) == 200  # and the place is still there for others


async def test_a_body_that_trickles_in_is_cut_off(place: Place) -> None:
    whole = post(GOOD)
    cut = len(whole) - 40

    assert await place.status_of_open(whole[:cut]) == 408
    assert place.taken == []


async def test_one_source_gets_five_requests_a_minute_and_others_theirs(place: Place) -> None:
    flood = [await place.status(post(GOOD), source="127.0.0.77") for _ in range(60)]

    assert flood == [200] * OWN_PER_MINUTE + [429] * (60 - OWN_PER_MINUTE)
    assert len(place.taken) == OWN_PER_MINUTE
    assert await place.status(post(GOOD), source="127.0.0.78") == 200
    visit = get("app.test").encode()
    assert await place.status(visit, source="127.0.0.77") == 200  # what is counted are not its visits


async def test_many_sources_together_get_what_a_core_can_spare() -> None:
    now = [0.0]
    allowance = Allowance(MOST_A_SECOND, lambda: now[0])

    assert sum(allowance.take() for _ in range(1000)) == MOST_A_SECOND
    now[0] += 0.5
    assert sum(allowance.take() for _ in range(1000)) == MOST_A_SECOND // 2


async def test_the_socket_is_for_haproxy_alone(place: Place, run_dir: Path) -> None:
    assert Layout(run_dir).own_socket.stat().st_mode & 0o777 == 0o600
