"""Metrics of a process: where they may be told, and what is told there."""

import asyncio
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from kakuremichi.bus.server import free_port
from kakuremichi.runtime.config import ConfigError
from kakuremichi.runtime.metrics import (
    Collect,
    Family,
    Listen,
    ListenRefusedError,
    Sample,
    configured_metrics,
    metrics_loop,
    parse_listen,
)

SEEN = Family("kakuremichi_seen_total", "counter", "What was seen.", ("service",))
NOW = Family("kakuremichi_now", "gauge", "How it is.")


async def two() -> Iterable[Sample]:
    return (SEEN, ("wiki",), 3), (SEEN, ("ssh",), 4), (NOW, (), 0.5)


async def broken() -> Iterable[Sample]:
    raise RuntimeError("no counters")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1:9464", Listen(host="127.0.0.1", port=9464)),
        ("[::1]:9464", Listen(host="::1", port=9464)),
        ("127.3.2.1:1", Listen(host="127.3.2.1", port=1)),
        ("unix:/run/kakuremichi/metrics.sock", Listen(path=Path("/run/kakuremichi/metrics.sock"))),
    ],
)
def test_loopback_and_sockets_are_fine(text: str, where: Listen) -> None:
    assert parse_listen(text) == where


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "localhost:9464", ":9464", "9464", "127.0.0.1:0",
     "127.0.0.1:65536", "127.0.0.1:x", "unix:relative", "unix:"],
)  # fmt: skip
def test_everything_else_is_refused_as_nobody_is_asked_who_he_is(text: str) -> None:
    with pytest.raises(ListenRefusedError, match=r"unix:/PATH, or ADDRESS:PORT of loopback"):
        parse_listen(text)
    with pytest.raises(ConfigError, match="KAKUREMICHI_METRICS_LISTEN"):
        configured_metrics(text, two)


def test_without_a_place_there_is_no_loop() -> None:
    assert metrics_loop("", two) == {}


async def asked(where: Listen, head: bytes) -> bytes:
    async with asyncio.timeout(20):
        while True:
            try:
                if where.path:
                    reader, writer = await asyncio.open_unix_connection(where.path)
                else:
                    reader, writer = await asyncio.open_connection(where.host, where.port)
                break
            except OSError:
                await asyncio.sleep(0.02)
        writer.write(head)
        answer = await reader.read()
        writer.close()
        return answer


async def serving(listen: str, collect: Collect, head: bytes) -> bytes:
    stop = asyncio.Event()
    (loop,) = metrics_loop(listen, collect).values()
    running = asyncio.ensure_future(loop(stop))
    try:
        return await asked(parse_listen(listen), head)
    finally:
        stop.set()
        await running


async def test_a_scrape_has_the_samples_and_the_process() -> None:
    answer = await serving(f"127.0.0.1:{free_port()}", two, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    lines = body.decode().splitlines()
    assert {'kakuremichi_seen_total{service="wiki"} 3.0', 'kakuremichi_seen_total{service="ssh"} 4.0'} <= set(lines)
    assert "kakuremichi_now 0.5" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


async def test_a_socket_is_the_users_own_and_goes_with_the_process(run_dir: Path) -> None:
    path = run_dir / "metrics.sock"
    modes: list[int] = []

    async def look() -> Iterable[Sample]:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return ()

    path.touch()  # left over by a process that was killed
    assert (await serving(f"unix:{path}", look, b"GET /metrics HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    assert modes == [0o600]
    assert not path.exists()


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"POST /metrics HTTP/1.1\r\n\r\n", b"404"), (b"GET / HTTP/1.1\r\n\r\n", b"404"), (b"nonsense\r\n\r\n", b"404")],
)
async def test_nothing_else_is_answered(head: bytes, status: bytes) -> None:
    assert (await serving(f"127.0.0.1:{free_port()}", two, head)).split(b" ")[1] == status


async def test_too_long_a_request_is_not_read_to_its_end() -> None:
    try:
        answer = await serving(f"127.0.0.1:{free_port()}", two, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)
    except ConnectionError:
        return
    assert answer == b""


async def test_what_cannot_be_collected_is_an_error_of_this_scrape_only() -> None:
    assert b" 500 " in await serving(f"127.0.0.1:{free_port()}", broken, b"GET /metrics HTTP/1.1\r\n\r\n")
