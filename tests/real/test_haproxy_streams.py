"""TCP services through HAProxy: PROXY protocol, IPv6 visitors of IPv4 targets, limits, and what is refused."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from socket import SOCK_STREAM

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import Frontend, Server, ServiceRefusedError, TcpService
from kakuremichi.dataplane.haproxy.stats import read_stats
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import NO_OPTIONS, Limits, Options, Timeouts, Upstream
from support.haproxy import LOOPBACK, Gateway, gateway, get, service, status, targets, until
from support.haproxy_upstreams import RawTarget, raw_target
from support.nftables_net import AGENT, PUBLIC, PUBLIC6, STRANGER6, VISITOR, VISITOR6, Net

GREETING = b"220 ready\r\n"
FRONTEND = Frontend(tcp=("TCP", "TCP6"))


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    """Without nft the port that visitors ask for is the one that is bound."""
    binds = f"80=127.0.0.1:{free_port()}", f"tcp=127.0.0.1:{free_port()}", f"tcp6=[::1]:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        async with gateway(run_dir, *binds, frontend=FRONTEND) as made:
            yield made


def port_of(rig: Gateway, bind: int = 1) -> int:
    return int(rig.binds[bind].rpartition(":")[2])


def tcp(rig: Gateway, *servers: Server, options: Options = NO_OPTIONS, sources: tuple[str, ...] = ()) -> TcpService:
    return TcpService(ServiceId("t"), port_of(rig), servers, options, sources)


async def said(port: int, text: bytes = b"hello\n", *, host: str = "127.0.0.1") -> bytes:
    """What the target says to a visitor who speaks first; b"" if the connection just ends."""
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(text)
            async with asyncio.timeout(10):
                return await reader.read(len(GREETING))
        finally:
            writer.close()
    return b""


async def test_a_tcp_service_comes_changes_and_goes_without_a_reload(
    rig: Gateway, free_port: Callable[[], int]
) -> None:
    before = await rig.processes()
    async with raw_target(free_port, GREETING) as one, raw_target(free_port, GREETING) as two:
        assert await said(port_of(rig)) == b""
        for target in (one, two):
            report = await rig.reconciler.put(tcp(rig, target.server()))
            assert (report.errors, report.reloaded) == ((), False)
            assert await said(port_of(rig)) == GREETING
            assert target.heard == [b"hello\n"]
        assert await said(port_of(rig, 2), host="::1") == b""  # another port, so nobody's

        await rig.reconciler.remove(ServiceId("t"))
        assert await said(port_of(rig)) == b""
    assert await rig.processes() == before


@pytest.mark.parametrize(("version", "start"), [(1, b"PROXY TCP4 127.0.0.1 "), (2, b"\r\n\r\n\0\r\nQUIT\n")])
async def test_the_target_is_told_who_came_and_a_change_of_that_needs_no_reload(
    rig: Gateway, free_port: Callable[[], int], version: int, start: bytes
) -> None:
    async with raw_target(free_port, GREETING) as target:
        await rig.reconciler.put(tcp(rig, target.server()))
        options = Options(upstream=Upstream(proxy_protocol=version))  # type: ignore[arg-type]
        report = await rig.reconciler.put(tcp(rig, target.server(), options=options))

        assert (report.errors, report.reloaded) == ((), False)
        assert await said(port_of(rig)) == GREETING
        assert target.heard[0].startswith(start)
        assert target.heard[0].endswith(b"hello\n")


async def test_who_may_not_come_reaches_no_target(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with raw_target(free_port, GREETING) as target:
        report = await rig.reconciler.put(tcp(rig, target.server(), sources=("10.0.0.0/8", "2001:db8::/32")))
        assert (report.errors, report.reloaded) == ((), True)
        assert await said(port_of(rig)) == b""
        assert target.heard == []

        await rig.reconciler.put(tcp(rig, target.server(), sources=("127.0.0.0/8",)))
        assert await said(port_of(rig)) == GREETING


@pytest.mark.parametrize("limits", [Limits(connections=1), Limits(connections_per_client=1)])
async def test_so_many_at_once_and_no_more(rig: Gateway, free_port: Callable[[], int], limits: Limits) -> None:
    async with raw_target(free_port, GREETING) as target:
        await rig.reconciler.put(tcp(rig, target.server(), options=Options(limits=limits)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(rig))
        writer.write(b"hello\n")
        assert await reader.readexactly(len(GREETING)) == GREETING

        assert await said(port_of(rig)) == b""

        writer.close()
        assert await until(lambda: _gets_through(rig))


@pytest.mark.parametrize("limits", [Limits(rate=2), Limits(rate_per_client=2)])
async def test_a_rate_lets_its_number_through(rig: Gateway, free_port: Callable[[], int], limits: Limits) -> None:
    async with raw_target(free_port, GREETING) as target:
        await rig.reconciler.put(tcp(rig, target.server(), options=Options(limits=limits)))

        greeted = [bool(await said(port_of(rig))) for _ in range(12)]

        assert set(greeted) == {True, False}
        assert greeted.count(True) == len(target.heard)


async def _gets_through(rig: Gateway) -> bool:
    return await said(port_of(rig)) == GREETING


async def test_a_target_may_speak_first(rig: Gateway, free_port: Callable[[], int]) -> None:
    """As SSH and mail do: rules are judged without a byte from the visitor."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(greet, "127.0.0.1", port):
        options = Options(limits=Limits(rate=100, rate_per_client=100, connections=10, connections_per_client=10))
        asked = tcp(rig, Server("t", LOOPBACK, port), options=options, sources=("127.0.0.0/8",))
        assert (await rig.reconciler.put(asked)).errors == ()

        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(rig))
        async with asyncio.timeout(10):
            assert await reader.read() == GREETING
        writer.close()


async def test_an_idle_connection_ends_after_its_time_and_a_busy_one_does_not(
    rig: Gateway, free_port: Callable[[], int]
) -> None:
    async with raw_target(free_port, GREETING) as target:
        await rig.reconciler.put(tcp(rig, target.server(), options=Options(timeouts=Timeouts(idle=1))))
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(rig))
        writer.write(b"hello\n")
        assert await reader.readexactly(len(GREETING)) == GREETING

        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_service_may_become_one_of_the_other_kind(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with raw_target(free_port, GREETING) as raw, targets(free_port, "web") as (web,):
        await rig.reconciler.put(tcp(rig, raw.server()))
        await rig.reconciler.put(service("t", web.server()))
        assert await said(port_of(rig)) == b""
        assert await status(rig.port, get("t.test")) == 200

        await rig.reconciler.put(tcp(rig, raw.server()))
        assert await said(port_of(rig)) == GREETING
        assert await status(rig.port, get("t.test")) == 404
        assert (await rig.reconciler.compare()).errors == ()


async def test_what_passed_is_counted(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with raw_target(free_port, GREETING) as target:
        await rig.reconciler.put(tcp(rig, target.server()))
        assert await said(port_of(rig)) == GREETING

        async def counted() -> bool:
            stats = await read_stats(rig.layout.admin_socket)
            (number,) = (number for number, owner in rig.reconciler.owners.items() if owner == "t")
            counters = stats[number].counters
            return (counters.requests, counters.bytes_in, counters.bytes_out) == (1, 6, len(GREETING))

        assert await until(counted)


async def test_a_used_up_pool_doubles(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with raw_target(free_port, GREETING) as target:
        for number in range(5):  # the pool begins with 2
            other = TcpService(ServiceId(f"s{number}"), 1 + number, (target.server(),))
            assert (await rig.reconciler.put(other)).errors == ()
        await rig.reconciler.put(tcp(rig, target.server()))

        assert await said(port_of(rig)) == GREETING
        assert (await rig.another_reconciler().full([tcp(rig, target.server())])).errors == ()
        assert await said(port_of(rig)) == GREETING


async def test_a_gateway_without_a_door_for_them_says_so(run_dir: Path) -> None:
    rig = Gateway(run_dir, ("80=127.0.0.1:1",), Frontend())
    await rig.reconciler.full(())

    with pytest.raises(ServiceRefusedError, match="takes no TCP service"):
        await rig.reconciler.put(TcpService(ServiceId("t"), 5006))


REDIRECT = """
table inet kk_streams {
  chain divert {
    type filter hook prerouting priority mangle
    iifname "pub" meta nfproto ipv6 tcp dport { 5006, 5007 } tproxy ip6 to :1080 accept
  }
  chain nat {
    type nat hook prerouting priority dstnat
    iifname "pub" meta nfproto ipv4 tcp dport { 5006, 5007 } redirect to :1080
  }
}
"""


@pytest.mark.root
async def test_a_redirected_port_is_known_by_the_port_that_the_visitor_asked_for(run_dir: Path, net: Net) -> None:
    """Visitors by IPv6 and IPv4 of a target that has only IPv4, behind a tunnel; each is announced to it."""
    gw = net.netns("gw")
    net.ip("agent", "route add 192.0.2.1/32 dev wg")
    nft = ["ip", "netns", "exec", gw, "nft", "-f", "-"]
    subprocess.run(nft, input=REDIRECT, text=True, check=True)  # noqa: ASYNC221  # once, before anything runs
    target = RawTarget(20001, GREETING)
    listening = net.bound("agent", SOCK_STREAM, str(AGENT), target.port)
    binds = f"80={PUBLIC}:80", "tcp=0.0.0.0:1080", "tcp6=[::]:1080,transparent"
    async with (
        await asyncio.start_server(target.take, sock=listening),
        gateway(run_dir, *binds, frontend=FRONTEND, namespace=gw) as rig,
    ):
        asked = TcpService(
            ServiceId("t"),
            5006,
            (Server("t", AGENT, target.port),),
            Options(upstream=Upstream(proxy_protocol=1)),
            sources=(f"{VISITOR}/32", f"{VISITOR6}/128"),
        )
        assert (await rig.reconciler.put(asked)).errors == (), rig.said()

        for source, door in ((VISITOR6, PUBLIC6), (VISITOR, PUBLIC)):
            async with net.connect("visitor", source, door, 5006) as (reader, writer):
                writer.write(b"hello\n")
                assert await reader.readexactly(len(GREETING)) == GREETING
            assert f" {source} ".encode() in target.heard[-1].splitlines()[0]
        for source, port in ((STRANGER6, 5006), (VISITOR6, 5007), (VISITOR6, 1080)):
            with suppress(ConnectionError):
                async with net.connect("visitor", source, PUBLIC6, port) as (reader, writer):
                    writer.write(b"hello\n")
                    assert await reader.read() == b""
        assert len(target.heard) == 2
        await target.end()
