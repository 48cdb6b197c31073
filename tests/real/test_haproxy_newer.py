"""What HAProxy can do from 2.7 on. Debian 12's 2.6 skips it; another one goes first on PATH to be tested."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService
from kakuremichi.dataplane.haproxy.visitors import HTTP3_PORT
from kakuremichi.lab import namespaces
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Http, Limits, Options
from support.haproxy import Gateway, Target, ask, gateway, get, installed, pattern, service, targets, until
from support.haproxy_upstreams import certificate
from support.own_namespace import own_namespace
from support.quic import VERSION_1, versions_offered

LIMIT = 400_000  # bytes a second
SIZE = 2 * LIMIT
ALLOWED_AT_ONCE = LIMIT + 40_000  # one period's share, and a buffer that was on its way


def least_s(downloads: int) -> float:
    """So long takes what shares one limit, however fast the machine."""
    return (downloads * SIZE - ALLOWED_AT_ONCE) / LIMIT


@pytest.fixture
async def target(free_port: Callable[[], int]) -> AsyncIterator[Target]:
    async with targets(free_port, "t") as (made,):
        yield made


class TestBandwidth:
    @pytest.fixture(autouse=True)
    def can(self) -> None:
        if not installed().bandwidth:
            pytest.skip("this HAProxy has no bwlim, which came with 2.7")

    @pytest.fixture
    async def rig(self, run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reloading, "GAP_S", 0.0)
            async with gateway(run_dir, f"80=127.0.0.1:{free_port()}") as made:
                yield made

    async def test_all_visitors_of_a_service_share_its_limit_and_others_are_free(
        self, rig: Gateway, target: Target
    ) -> None:
        await limited(rig, target, Limits(bandwidth=LIMIT))
        assert (await rig.reconciler.put(service("free", target.server()))).errors == ()

        alone = await seconds(rig, "a.test", "127.0.0.1")
        two = await seconds(rig, "a.test", "127.0.0.1", "127.0.0.2")
        free = await seconds(rig, "free.test", "127.0.0.1", "127.0.0.2")

        assert alone >= least_s(1)
        assert two >= least_s(2)
        assert free < alone

    async def test_a_limit_per_client_is_each_ones_own(self, rig: Gateway, target: Target) -> None:
        await limited(rig, target, Limits(bandwidth_per_client=LIMIT))

        one_twice = await seconds(rig, "a.test", "127.0.0.3", "127.0.0.3")
        two = await seconds(rig, "a.test", "127.0.0.1", "127.0.0.2")

        assert one_twice >= least_s(2)
        assert least_s(1) <= two < one_twice


async def limited(rig: Gateway, target: Target, limits: Limits) -> None:
    asked = HttpService(ServiceId("a"), "a.test", (target.server(),), options=Options(limits=limits))
    report = await rig.reconciler.put(asked)
    assert report.errors == (), rig.said()


async def seconds(rig: Gateway, host: str, *sources: str) -> float:
    """For one download each, begun together."""

    async def download(source: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, local_addr=(source, 0))
        writer.write(get(host, f"/bytes/{SIZE}").encode())
        assert (await reader.read()).partition(b"\r\n\r\n")[2] == pattern(SIZE)
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*map(download, sources))
    return time.monotonic() - began


@pytest.mark.root
class TestHttp3:
    @pytest.fixture(autouse=True)
    def own_network(self) -> Iterator[None]:
        """UDP port 443 is not the test's on the machine itself."""
        if not installed().quic:
            pytest.skip("this HAProxy was built without QUIC")
        with own_namespace():
            namespaces.ip_batch(None, ["link set lo up"])
            yield

    @pytest.fixture
    async def rig(self, own_network: None, run_dir: Path) -> AsyncIterator[Gateway]:
        crt_list = run_dir / "crt.list"
        crt_list.write_text(f"{certificate(run_dir, 'a.test', 'b.test')}\n")
        frontend = Frontend(tls=("TLS",), crt_list=crt_list, http3=(ip_address("0.0.0.0"), ip_address("::")))  # noqa: S104
        binds = "80=127.0.0.1:80", "tls=127.0.0.1:443"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reloading, "GAP_S", 0.0)
            async with gateway(run_dir / "gw", *binds, frontend=frontend) as made:
                yield made

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
    async def test_the_door_answers_by_quic_also_after_a_reload(
        self, rig: Gateway, target: Target, address: str
    ) -> None:
        assert VERSION_1 in await asyncio.to_thread(versions_offered, address, HTTP3_PORT), rig.said()

        changed = HttpService(ServiceId("a"), "a.test", options=Options(http=Http(https_only=True)))
        assert (await rig.reconciler.put(changed)).reloaded

        assert await until(lambda: _answers(address)), rig.said()

    async def test_those_who_come_by_tls_are_told_of_it_and_nobody_else(self, rig: Gateway, target: Target) -> None:
        assert (await rig.reconciler.put(service("a", target.server()))).errors == ()

        plain = await ask(rig.port, get("a.test"))
        head = await curl_head("https://a.test/")

        assert b"alt-svc" not in plain.lower()
        assert 'alt-svc: h3=":443"; ma=3600' in head.lower()

    async def test_a_request_is_led_and_marked_as_any_other(self, rig: Gateway, target: Target) -> None:
        http3 = pytest.importorskip("support.http3_visitor", reason="aioquic is not installed")
        assert (await rig.reconciler.put(service("a", target.server()))).errors == ()
        place = "127.0.0.1", HTTP3_PORT

        status, body = await http3.http3_get(place, "a.test", "a.test", {"x-forwarded-for": "6.6.6.6"})
        elsewhere, _ = await http3.http3_get(place, "a.test", "b.test", {})

        assert status == 200
        headers = json.loads(body)["headers"]
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.1", "https")
        assert elsewhere == 421  # the host is another than the name that TLS was asked for


async def _answers(address: str) -> bool:
    return VERSION_1 in await asyncio.to_thread(versions_offered, address, HTTP3_PORT, 0.5)


async def curl_head(url: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sSkI", "--resolve", "a.test:443:127.0.0.1", url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
