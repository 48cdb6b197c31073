"""Visitors of every kind, and those who mean harm: HTTP/2, WebSockets, event streams, slow and broken requests."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server
from kakuremichi.model.ids import ServiceId
from kakuremichi.model.options import Http, Limits, Options
from support import h2_frames as h2
from support.haproxy import LOOPBACK, Gateway, Target, ask, gateway, get, installed, service, status, targets
from support.haproxy_upstreams import certificate


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    crt_list = run_dir / "crt.list"
    crt_list.write_text(f"{certificate(run_dir, 'a.test', 'b.test')}\n")
    binds = f"80=127.0.0.1:{free_port()}", f"tls=127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        async with gateway(run_dir / "gw", *binds, frontend=Frontend(tls=("TLS",), crt_list=crt_list)) as made:
            yield made


@pytest.fixture
async def target(rig: Gateway, free_port: Callable[[], int]) -> AsyncIterator[Target]:
    """Behind a.test."""
    async with targets(free_port, "t") as (made,):
        assert (await rig.reconciler.put(service("a", made.server()))).errors == ()
        yield made


async def curl(rig: Gateway, scheme: str, path: str, *options: str, body: bytes = b"") -> tuple[str, str]:
    """(status line, body)."""
    port = int(rig.binds[scheme == "https"].rpartition(":")[2])
    process = await asyncio.create_subprocess_exec(
        "curl", "-sSk", "--max-time", "20", "-i", "--resolve", f"a.test:{port}:127.0.0.1", *options,
        f"{scheme}://a.test:{port}{path}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(body)
    assert process.returncode == 0, err
    head, _, rest = out.decode().partition("\r\n\r\n")
    return head, rest


class TestHttps:
    @pytest.mark.parametrize(("option", "first"), [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200")])
    async def test_visitors_choose_their_version(self, rig: Gateway, target: Target, option: str, first: str) -> None:
        head, body = await curl(rig, "https", "/x", option)

        assert head.startswith(first)
        seen = json.loads(body)
        assert (seen["path"], seen["headers"]["x-forwarded-proto"]) == ("/x", "https")

    async def test_who_comes_without_is_sent_there_with_path_and_query(self, rig: Gateway, target: Target) -> None:
        options = Options(http=Http(https_only=True))
        asked = HttpService(ServiceId("a"), "a.test", (target.server(),), options=options)
        assert (await rig.reconciler.put(asked)).errors == ()

        answer = await ask(rig.port, get("a.test:80", "/x/../y?z=%20"))
        assert answer.startswith(b"HTTP/1.1 308")
        assert b"\r\nlocation: https://a.test/x/../y?z=%20\r\n" in answer.lower()
        assert target.requests == []
        assert (await curl(rig, "https", "/x"))[0].startswith("HTTP/2 200")

    @pytest.mark.parametrize("option", ["--http2", "--http1.1"])
    async def test_an_upload_of_unknown_length_arrives_whole(self, rig: Gateway, target: Target, option: str) -> None:
        size = 8 * 1024 * 1024

        _, body = await curl(rig, "https", "/up", option, "-H", "expect:", "-T", "-", body=b"x" * size)

        headers = json.loads(body)["headers"]
        assert headers["transfer-encoding"] == "chunked"
        assert "content-length" not in headers

    @pytest.mark.parametrize(("limit", "size", "code"), [(1000, 1001, b"413"), (1_000_000, 10, b"411")])
    async def test_a_limit_of_bodies_holds_for_http2_which_does_not_say_that_there_is_one(
        self, rig: Gateway, target: Target, limit: int, size: int, code: bytes
    ) -> None:
        if installed().version >= (3, 4):
            pytest.skip("HAProxy 3.4.0 does not wait for the body of an HTTP/2 request that names no length")
        options = Options(limits=Limits(body=limit))
        asked = HttpService(ServiceId("a"), "a.test", (target.server(),), options=options)
        assert (await rig.reconciler.put(asked)).errors == ()
        visitor = await h2.Visitor.come(rig.port)

        visitor.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.request("/up", method="POST")))
        await asyncio.sleep(0)
        visitor.send(h2.frame(h2.DATA, h2.END_STREAM, 1, b"x" * size))
        answer = await visitor.until(h2.HEADERS, h2.GOAWAY)

        assert (answer.kind, code in answer.body) == (h2.HEADERS, True)
        assert target.requests == []
        visitor.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 3, h2.request("/", method="POST")))
        assert (await visitor.until(h2.HEADERS, stream=3)).body[:1] == b"\x88"  # none at all
        visitor.leave()


class TestStreams:
    async def test_events_are_passed_on_as_they_happen(self, rig: Gateway, free_port: Callable[[], int]) -> None:
        more = asyncio.Event()

        async def events(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: first\n\n")
            await more.wait()
            await response.write(b"data: second\n\n")
            return response

        app, port = web.Application(), free_port()
        app.router.add_get("/events", events)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, str(LOOPBACK), port).start()
        await rig.reconciler.put(service("a", Server("t", LOOPBACK, port)))
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(get("a.test", "/events").encode())
        async with asyncio.timeout(20):
            await reader.readuntil(b"data: first\n\n")  # while the second has not happened yet
            more.set()
            await reader.readuntil(b"data: second\n\n")
        writer.close()
        await runner.cleanup()

    async def test_websockets_over_http2(self, rig: Gateway, target: Target) -> None:
        """RFC 8441: the target sees an ordinary upgrade."""
        visitor = await h2.Visitor.come(rig.port)
        offered = await visitor.until(h2.SETTINGS)
        assert h2.EXTENDED_CONNECT in [offered.body[at : at + 6] for at in range(0, len(offered.body), 6)]
        fields = [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat"),
            (":authority", "a.test"), ("sec-websocket-version", "13"),
        ]  # fmt: skip
        visitor.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(fields)))
        answer = await visitor.until(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)
        assert (answer.kind, answer.body[:1]) == (h2.HEADERS, b"\x88")

        visitor.send(h2.frame(h2.DATA, 0, 1, b"\x81\x82\0\0\0\0hi"))  # a masked text frame

        assert (await visitor.until(h2.DATA)).body == b"\x81\x02hi"
        visitor.leave()


def many(count: int, size: int) -> list[str]:
    return [f"X-{number}: {'a' * size}" for number in range(count)]


class TestHarm:
    async def test_headers_of_more_than_16_kib_are_refused_and_just_below_are_not(
        self, rig: Gateway, target: Target
    ) -> None:
        assert await status(rig.port, get("a.test", "/", *many(60, 255))) == 200
        assert await status(rig.port, get("a.test", "/", *many(70, 255))) == 431
        assert await status(rig.port, get("a.test", "/", *many(1, 60_000))) in {400, 431}  # more than a buffer
        assert (await curl(rig, "https", "/", "--http2", *[f"-HX-{n}: {'a' * 255}" for n in range(70)]))[0].startswith(
            "HTTP/2 431"
        )

    async def test_a_head_that_trickles_in_is_given_up_and_holds_up_nobody(self, rig: Gateway, target: Target) -> None:
        slow = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(50)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: ")

        assert await status(rig.port, get("a.test")) == 200

        for reader, writer in slow:
            async with asyncio.timeout(30):
                assert (await reader.read()).startswith(b"HTTP/1.1 408")
            writer.close()
        assert len(target.requests) == 1

    @pytest.mark.parametrize(
        "head",
        [
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            b"PROXY UNKNOWN\r\n",
            b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x01\x02\x02\x02\x02\0\x01\0\x02",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ],
    )
    async def test_nobody_may_announce_himself_by_proxy_protocol(
        self, rig: Gateway, target: Target, head: bytes
    ) -> None:
        assert await status(rig.port, head + get("a.test").encode()) in {0, 400}
        assert target.requests == []

    @pytest.mark.parametrize(
        "fields",
        [
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test,b.test")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/ HTTP/1.1\r\nX: y"), (":authority", "a.test")],
            [(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a.test")],
            [(":method", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), (":scheme", "http"), (":path", "/"),
             (":authority", "a.test")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), ("x\r\ny", "z")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), ("x", "y\r\nz: 1")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), ("X-Upper", "y")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), ("connection", "x")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"),
             ("transfer-encoding", "chunked")],
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test"), (":path", "/x")],
            [(":method", "CONNECT"), (":authority", "a.test:443")],
        ],
        ids=["list", "no-host", "path", "empty-path", "method", "name", "value", "upper", "connection",
             "encoding", "two-paths", "connect"],
    )  # fmt: skip
    async def test_what_http2_says_otherwise_than_http1_reaches_nobody(
        self, rig: Gateway, target: Target, fields: list[tuple[str, str]]
    ) -> None:
        visitor = await h2.Visitor.come(rig.port)
        flags = h2.END_HEADERS | (0 if fields[0][1] == "CONNECT" else h2.END_STREAM)
        visitor.send(h2.frame(h2.HEADERS, flags, 1, h2.block(fields)))

        answer = await visitor.until(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)

        assert answer.kind != h2.HEADERS or answer.body[:1] != b"\x88"
        assert target.requests == []
        visitor.leave()

    async def test_of_two_hosts_in_http2_only_the_one_that_decided_is_passed_on(
        self, rig: Gateway, target: Target
    ) -> None:
        visitor = await h2.Visitor.come(rig.port)
        head = h2.request("/", ("host", "b.test"))
        visitor.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, head))

        assert (await visitor.until(h2.HEADERS)).body[:1] == b"\x88"
        (seen,) = target.requests
        assert "b.test" not in str(seen)
        visitor.leave()

    async def test_a_body_of_another_length_than_it_says_is_cut(self, rig: Gateway, target: Target) -> None:
        visitor = await h2.Visitor.come(rig.port)
        head = h2.request("/up", ("content-length", "3"), method="POST")
        visitor.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, head), h2.frame(h2.DATA, h2.END_STREAM, 1, b"x" * 300))

        answer = await visitor.until(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)

        assert answer.kind != h2.HEADERS or answer.body[:1] != b"\x88"
        visitor.leave()

    @pytest.mark.parametrize(
        "frames",
        [
            [h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 2, h2.request("/"))],
            [h2.frame(h2.DATA, 0, 1, b"x")],
            [h2.frame(h2.CONTINUATION, 0, 1, b"")],
            [h2.frame(h2.SETTINGS, 0, 0, b"xxxxx")],
            [h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31))],
            [h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 0))],
            [h2.frame(h2.PING, 0, 0, b"short")],
            [h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\x80")],
            [struct.pack(">I", 1_000_000)[1:] + struct.pack(">BBI", h2.DATA, 0, 1)],
            [h2.frame(h2.HEADERS, 0, 1, h2.request("/")), h2.frame(h2.PING, 0, 0, b"\0" * 8)],
        ],
        ids=["even", "idle", "continuation", "settings", "window", "zero", "ping", "index", "large", "interrupted"],
    )
    async def test_a_broken_connection_is_ended(self, rig: Gateway, target: Target, frames: list[bytes]) -> None:
        visitor = await h2.Visitor.come(rig.port)
        visitor.send(*frames)

        assert await visitor.ended()
        assert target.requests == []
        visitor.leave()

    async def test_streams_that_are_opened_and_reset_hold_up_nobody(self, rig: Gateway, target: Target) -> None:
        visitor = await h2.Visitor.come(rig.port)
        for number in range(1, 4000, 2):
            visitor.send(
                h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, number, h2.request("/hang")),
                h2.frame(h2.RST_STREAM, 0, number, struct.pack(">I", 8)),
            )

        assert await status(rig.port, get("a.test")) == 200
        visitor.leave()

    async def test_a_flood_of_continuations_ends_the_connection(self, rig: Gateway, target: Target) -> None:
        visitor = await h2.Visitor.come(rig.port)
        visitor.send(h2.frame(h2.HEADERS, 0, 1, h2.request("/")))
        visitor.send(*(h2.frame(h2.CONTINUATION, 0, 1, h2.block([(f"x-{n}", "y" * 1000)])) for n in range(200)))

        assert await visitor.ended()
        assert await status(rig.port, get("a.test")) == 200
        assert len(target.requests) == 1
        visitor.leave()
