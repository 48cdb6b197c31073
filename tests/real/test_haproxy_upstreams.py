"""How targets are spoken to: TLS with a checked certificate, HTTP/2 in clear, gRPC, PROXY protocol."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import HttpService, Server, ServiceRefusedError
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import NO_OPTIONS, Options, Upstream
from support.h2_frames import Grpc
from support.haproxy import LOOPBACK, Gateway, ask, gateway, get, status, targets
from support.haproxy_upstreams import certificate, public_part, raw_target, tls_target

END = b"proto=http\r\n\r\n"  # of a request as HAProxy writes it


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        async with gateway(run_dir / "gw", f"80=127.0.0.1:{free_port()}") as made:
            yield made


async def put(rig: Gateway, upstream: Upstream, *servers: Server, host: str = "a.test") -> bool:
    """Whether it took a reload."""
    report = await rig.reconciler.put(HttpService(ServiceId("a"), host, servers, options=Options(upstream=upstream)))
    assert report.errors == (), rig.said()
    return report.reloaded


class TestTls:
    async def test_a_target_whose_authority_is_known_is_trusted(
        self, rig: Gateway, run_dir: Path, free_port: Callable[[], int]
    ) -> None:
        pem = certificate(run_dir, "a.test")
        async with tls_target(free_port(), pem) as target:
            await put(rig, Upstream(protocol="https", ca=public_part(pem)), target.server())

            assert await status(rig.port, get("a.test")) == 200
            assert (await rig.reconciler.compare()).outcomes == ()

    async def test_targets_come_and_go_at_run_time_with_their_tls(
        self, rig: Gateway, run_dir: Path, free_port: Callable[[], int]
    ) -> None:
        """The authority is loaded with the rules, even while there is no target that names it."""
        pem = certificate(run_dir, "a.test")
        upstream = Upstream(protocol="https", ca=public_part(pem))
        async with tls_target(free_port(), pem) as one, tls_target(free_port(), pem) as two:
            assert await put(rig, upstream)
            for target in (one, two, one):
                assert not await put(rig, upstream, target.server())
                assert await status(rig.port, get("a.test")) == 200
            assert (len(one.requests), len(two.requests)) == (2, 1)

            await rig.reconciler.remove(ServiceId("a"))
            await rig.reconciler.flush()
            assert list(rig.directory.glob("authority-*")) == []

    @pytest.mark.parametrize(
        ("names", "valid"),
        [(("a.test",), timedelta(days=-1)), (("b.test",), timedelta(days=1))],
        ids=["expired", "name"],
    )
    async def test_an_expired_certificate_and_one_of_another_name_are_refused(
        self, rig: Gateway, run_dir: Path, free_port: Callable[[], int], names: tuple[str, ...], valid: timedelta
    ) -> None:
        pem = certificate(run_dir, *names, valid=valid)
        async with tls_target(free_port(), pem) as target:
            await put(rig, Upstream(protocol="https", ca=public_part(pem)), target.server())
            assert await status(rig.port, get("a.test")) == 503
            assert target.requests == []

            await put(rig, Upstream(protocol="https", verify=False), target.server())
            assert await status(rig.port, get("a.test")) == 200

    async def test_without_an_authority_of_its_own_only_the_systems_count(
        self, rig: Gateway, run_dir: Path, free_port: Callable[[], int]
    ) -> None:
        async with tls_target(free_port(), certificate(run_dir, "a.test")) as target:
            await put(rig, Upstream(protocol="https"), target.server())

            assert await status(rig.port, get("a.test")) == 503
            assert target.requests == []

    async def test_the_name_to_ask_for_can_be_given_and_under_a_wildcard_the_visitor_gives_it(
        self, rig: Gateway, run_dir: Path, free_port: Callable[[], int]
    ) -> None:
        pem = certificate(run_dir, "inner.lan", "x.w.test")
        ca = public_part(pem)
        async with tls_target(free_port(), pem) as target:
            await put(rig, Upstream(protocol="https", ca=ca, server_name="inner.lan"), target.server())
            assert await status(rig.port, get("a.test")) == 200

            await put(rig, Upstream(protocol="https", ca=ca), target.server(), host="*.w.test")
            assert await status(rig.port, get("x.w.test")) == 200
            assert await status(rig.port, get("y.w.test")) == 503

    def test_what_is_no_certificate_never_reaches_haproxy(self) -> None:
        ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        with pytest.raises(ServiceRefusedError, match=r"options\.upstream\.ca"):
            HttpService(ServiceId("a"), "a.test", options=Options(upstream=Upstream(protocol="https", ca=ca)))


class TestProxyProtocol:
    @pytest.mark.parametrize("version", [1, 2])
    async def test_the_target_is_told_who_came(self, rig: Gateway, free_port: Callable[[], int], version: int) -> None:
        async with raw_target(free_port, b"HTTP/1.1 204 x\r\nconnection: close\r\n\r\n", last=END) as target:
            assert not await put(rig, Upstream(proxy_protocol=version), target.server())  # type: ignore[arg-type]

            assert await status(rig.port, get("a.test")) == 204

        assert visitor_in(target.heard[0]) == "127.0.0.1"
        assert b"GET / HTTP/1.1\r\n" in target.heard[0]

    async def test_no_connection_is_used_for_two_visitors(self, rig: Gateway, free_port: Callable[[], int]) -> None:
        async with raw_target(free_port, b"HTTP/1.1 204 x\r\n\r\n", last=END) as target:
            await put(rig, Upstream(proxy_protocol=1), target.server())
            for _ in range(3):
                assert await status(rig.port, get("a.test")) == 204

        ports = {heard.split(b" ")[4] for heard in target.heard}
        assert len(ports) == len(target.heard) == 3


def visitor_in(heard: bytes) -> str:
    """The address in a PROXY header of either version."""
    if heard.startswith(b"PROXY TCP4 "):
        return heard.split(b" ")[2].decode()
    assert heard.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11"), heard[:40]
    assert struct.unpack(">H", heard[14:16])[0] >= 12
    return socket.inet_ntoa(heard[16:20])


class TestHttp2:
    async def test_grpc_passes_with_its_trailers(self, rig: Gateway, free_port: Callable[[], int]) -> None:
        grpc, port = Grpc(), free_port()
        message = b"\0\0\0\0\x05hello"
        async with await asyncio.start_server(grpc.take, str(LOOPBACK), port):
            await put(rig, Upstream(protocol="h2c"), Server("grpc", LOOPBACK, port))

            head, body = await curl(
                rig, "--http2-prior-knowledge", "-H", "te: trailers", "-H", "content-type: application/grpc",
                "--data-binary", "@-", "/echo.Echo/Say", body=message,
            )  # fmt: skip

        assert body == message
        assert re.search(rb"^HTTP/2 200", head)
        assert b"grpc-status: 0" in head
        assert len(grpc.heard) == 1

    async def test_the_protocol_of_a_service_changes_at_run_time(
        self, rig: Gateway, free_port: Callable[[], int]
    ) -> None:
        grpc, port = Grpc(), free_port()
        async with (
            await asyncio.start_server(grpc.take, str(LOOPBACK), port),
            targets(free_port, "plain") as (plain,),
        ):
            assert not await put(rig, NO_OPTIONS.upstream, plain.server())
            assert b'"target": "plain"' in await ask(rig.port, get("a.test"))

            assert not await put(rig, Upstream(protocol="h2c"), Server("plain", LOOPBACK, port))

            assert b"application/grpc" in await ask(rig.port, get("a.test"))
            assert len(plain.requests) == len(grpc.heard) == 1

    async def test_visitors_may_speak_http2_to_any_target(self, rig: Gateway, free_port: Callable[[], int]) -> None:
        async with targets(free_port, "plain") as (plain,):
            await put(rig, NO_OPTIONS.upstream, plain.server())

            head, _ = await curl(rig, "--http2-prior-knowledge", "/x")

        assert head.startswith(b"HTTP/2 200")
        assert plain.requests[0]["path"] == "/x"


async def curl(rig: Gateway, *arguments: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """(head with trailers, body) of a request to a.test; the last argument is the path."""
    *options, path = arguments
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "-D", "/dev/stderr", "-H", "Host: a.test", *options,
        f"http://127.0.0.1:{rig.port}{path}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(body)
    assert process.returncode == 0, err
    return err, out
