"""Visitors and targets through a real HAProxy on loopback."""

import asyncio
import hashlib
import io
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server, ServiceState
from kakuremichi.dataplane.haproxy.stats import read_stats
from kakuremichi.model.ids import ServiceId
from support.haproxy import LOOPBACK, Gateway, ask, gateway, get, knocking, pattern, service, status, targets, until
from support.haproxy_upstreams import certificate


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    async with gateway(run_dir, f"80=127.0.0.1:{free_port()}") as made:
        yield made


async def test_a_new_service_answers_at_once_and_a_removed_one_no_more(
    rig: Gateway, free_port: Callable[[], int]
) -> None:
    async with targets(free_port, "t") as (target,):
        assert await status(rig.port, get("a.test")) == 404

        report = await rig.reconciler.put(service("a", target.server()))

        assert report.errors == ()
        assert await status(rig.port, get("a.test")) == 200
        await rig.reconciler.remove(ServiceId("a"))
        assert await status(rig.port, get("a.test")) == 404
        assert await until(lambda: _settled(rig))


async def _settled(rig: Gateway) -> bool:
    """Idle connections to the target may keep its server for the five seconds of the pool."""
    return not rig.reconciler.pending or not (await rig.reconciler.compare()).pending


async def test_a_service_without_targets_and_one_whose_target_is_dead_say_which(
    rig: Gateway, free_port: Callable[[], int]
) -> None:
    dead = Server("dead", LOOPBACK, free_port())
    await rig.reconciler.put(service("empty"))
    await rig.reconciler.put(service("dead", dead))
    await rig.reconciler.put(service("drained", Server("t", LOOPBACK, 9, weight=0)))
    await rig.reconciler.put(HttpService(ServiceId("paused"), "paused.test", (dead,), ServiceState.PAUSED))

    for name, text in (
        ("empty", b"no-target"),
        ("drained", b"no-target"),
        ("dead", b"target-unreachable"),
        ("paused", b"paused"),
    ):
        answer = await ask(rig.port, get(f"{name}.test"))
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert text in answer


async def test_a_dead_target_costs_no_request_while_another_lives(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with targets(free_port, "alive") as (alive,):
        dead = Server("dead", LOOPBACK, free_port())
        await rig.reconciler.put(service("a", dead, alive.server()))

        codes = [await status(rig.port, get("a.test")) for _ in range(20)]

        assert codes == [200] * 20
        counted = (await read_stats(rig.layout.admin_socket))[0].counters
        assert (counted.requests, counted.status_2xx) == (20, 20)
        assert counted.redispatches > 0


async def test_weights_decide_the_shares_and_a_backup_waits(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with targets(free_port, "heavy", "light", "spare") as (heavy, light, spare):
        backup = Server("spare", LOOPBACK, spare.port, backup=True)
        await rig.reconciler.put(service("a", heavy.server(200), light.server(100), backup))
        for _ in range(30):
            assert await status(rig.port, get("a.test")) == 200
        assert (len(heavy.requests), len(light.requests), len(spare.requests)) == (20, 10, 0)

        await rig.reconciler.put(service("a", backup))

        assert await status(rig.port, get("a.test")) == 200
        assert len(spare.requests) == 1


async def test_swapping_the_target_loses_no_request(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with targets(free_port, "one", "two") as (one, two):
        await rig.reconciler.put(service("a", one.server()))
        async with knocking(rig.port, "a.test") as count:
            for target in (two, one) * 10:
                assert (await rig.reconciler.put(service("a", target.server()))).errors == ()
                await asyncio.sleep(0.02)

        assert (count.refused, count.lost, count.other) == (0, 0, [])
        assert min(len(one.requests), len(two.requests)) > 0


async def test_large_bodies_arrive_whole_in_both_directions(rig: Gateway, free_port: Callable[[], int]) -> None:
    size = 32 * 1024 * 1024
    body = pattern(size)
    async with targets(free_port, "t") as (target,), aiohttp.ClientSession() as session:
        await rig.reconciler.put(service("a", target.server()))
        url = f"http://127.0.0.1:{rig.port}"
        async with session.get(f"{url}/bytes/{size}", headers={"Host": "a.test"}) as answer:
            assert hashlib.sha256(await answer.read()).digest() == hashlib.sha256(body).digest()
        async with session.post(url, data=io.BytesIO(body), headers={"Host": "a.test"}) as answer:
            assert (await answer.json())["sha256"] == hashlib.sha256(body).hexdigest()


async def test_websockets_echo_and_outlive_a_reload(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with targets(free_port, "t") as (target,), aiohttp.ClientSession() as session:
        await rig.reconciler.put(service("a", target.server()))
        url = f"http://127.0.0.1:{rig.port}/chat"
        async with session.ws_connect(url, headers={"Host": "a.test"}) as socket:
            await socket.send_str("before")
            assert await socket.receive_str(timeout=5) == "before"

            await rig.reconciler.full([service("a", target.server()), *(service(f"b{n}") for n in range(8))])

            await socket.send_bytes(pattern(100_000))
            assert await socket.receive_bytes(timeout=5) == pattern(100_000)


async def test_a_used_up_pool_doubles_under_load_without_a_failed_request(
    rig: Gateway, free_port: Callable[[], int]
) -> None:
    async with targets(free_port, "t") as (target,), aiohttp.ClientSession() as session:
        await rig.reconciler.put(service("a", target.server()))
        url, kept = f"http://127.0.0.1:{rig.port}/", 0
        async with knocking(rig.port, "a.test") as count:
            for number in range(40):  # 8 → 16 → 32 → 64
                report = await rig.reconciler.put(service(f"b{number}", target.server()))
                assert report.errors == (), rig.said()
                assert await status(rig.port, get(f"b{number}.test")) == 200
                async with session.get(url, headers={"Host": "a.test"}) as answer:  # in one connection for all
                    kept += answer.status == 200

        assert (count.refused, count.lost, count.other, kept) == (0, 0, [], 40)
        assert count.answered > 0
        assert (await rig.reconciler.compare()).outcomes == ()


async def test_a_configuration_that_haproxy_refuses_changes_nothing(
    run_dir: Path, free_port: Callable[[], int]
) -> None:
    async with (
        gateway(run_dir, f"80=127.0.0.1:{free_port()}") as rig,
        targets(free_port, "t") as (target,),
    ):
        await rig.reconciler.put(service("a", target.server()))
        await rig.reconciler.flush()
        before = await rig.processes()

        rig.frontend = Frontend(http=("NOSUCH",))
        broken = rig.another_reconciler()
        report = await broken.full([service("a", target.server())])

        assert "refused the new configuration" in report.errors[0]
        assert await rig.processes() == before
        assert await status(rig.port, get("a.test")) == 200


@pytest.fixture
async def tls(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    crt_list = run_dir / "crt.list"
    crt_list.write_text(f"{certificate(run_dir, 'a.test', 'b.test')}\n")
    frontend = Frontend(tls=("TLS",), crt_list=crt_list)
    binds = f"80=127.0.0.1:{free_port()}", f"tls=127.0.0.1:{free_port()}"
    async with gateway(run_dir, *binds, frontend=frontend) as made:
        yield made


async def over_tls(port: int, name: str | None, host: str) -> tuple[int, str]:
    """(status, ALPN) of a request to `host` in a connection made for `name`."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(
        str(LOOPBACK), port, ssl=context, server_hostname=name or "127.0.0.1"
    )
    writer.write(get(host).encode())
    answer = await reader.read()
    alpn = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return int(answer.split(b" ", 2)[1]), alpn


async def test_tls_leads_to_the_name_it_was_made_for_only(tls: Gateway, free_port: Callable[[], int]) -> None:
    port = int(tls.binds[1].rpartition(":")[2])
    async with targets(free_port, "t") as (target,):
        for name in ("a", "b"):
            await tls.reconciler.put(service(name, target.server()))

        assert await over_tls(port, "a.test", "a.test") == (200, "http/1.1")
        assert await over_tls(port, "a.test", "b.test") == (421, "http/1.1")
        headers = target.requests[0]["headers"]
        assert isinstance(headers, dict)
        assert headers["x-forwarded-proto"] == "https"
        for unknown in ("c.test", None):  # None: no name at all
            with pytest.raises(ssl.SSLError):
                await over_tls(port, unknown, "a.test")
