"""Prometheus metrics of a process: declared as data, read when they are asked for, told on loopback or a socket only.

Nothing is counted twice for them: they read the counters that the parts of a service keep anyway.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kakuremichi.runtime.config import PREFIX, ConfigError

log = structlog.get_logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4"
UNIX = "unix:"
_ASKED_WITHIN_S = 5.0
_MOST_HEAD = 8192


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. The name of a counter ends in `_total`. Labels never name visitors."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


Sample = tuple[Family, tuple[str, ...], float]
Collect = Callable[[], Awaitable[Iterable[Sample]]]
Loop = Callable[[asyncio.Event], Awaitable[None]]

UP = Family("kakuremichi_bus_connected", "gauge", "1 while there is a connection to the bus.")
BUS = Family("kakuremichi_bus_events_total", "counter", "What befell the connection and its messages.", ("event",))
SPANS_SENT = Family("kakuremichi_spans_sent_total", "counter", "Spans that were sent to the portals.")
SPANS_DROPPED = Family("kakuremichi_spans_dropped_total", "counter", "Spans that could not be sent.")
ON_THE_BUS = (UP, BUS)
EVERYWHERE = (*ON_THE_BUS, SPANS_SENT, SPANS_DROPPED)


class ListenRefusedError(ValueError):
    """Metrics may not be told there; a sentence."""


@dataclass(frozen=True, slots=True)
class Listen:
    """`path`, or `host` and `port`."""

    path: Path | None = None
    host: str = ""
    port: int = 0


def parse_listen(text: str) -> Listen:
    """`unix:/PATH` or `ADDRESS:PORT` with an address of loopback; metrics ask nobody who he is."""
    if text.startswith(UNIX + "/"):
        return Listen(path=Path(text.removeprefix(UNIX)))
    host, _, port = text.rpartition(":")
    try:
        local = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ListenRefusedError(f"{text}: unix:/PATH, or ADDRESS:PORT of loopback such as 127.0.0.1:9464, is needed")
    return Listen(host=host.strip("[]"), port=int(port))


def exposition(samples: Iterable[Sample]) -> bytes:
    """In Prometheus' text format, with what the kernel says of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    given = tuple(samples)
    registry.register(Samples(lambda: given))
    return generate_latest(registry)


class Samples(Collector):
    """Of counters and gauges, for a registry: `read` when they are asked for."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for family, labels, value in self._read():
            if family.name not in found:
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                found[family.name] = kind(family.name, family.help, labels=family.labels)
            found[family.name].add_metric(labels, value)
        return found.values()


def metrics_loop(listen: str, collect: Collect) -> dict[str, Loop]:
    """The loop that tells them, by its name; none if `listen` is "". Raises :class:`ListenRefusedError`."""
    if not listen:
        return {}
    where = parse_listen(listen)

    async def run(stop: asyncio.Event) -> None:
        async with _serving(where, collect):
            log.info("metrics are told", address=listen)
            await stop.wait()

    return {"metrics": run}


def configured_metrics(listen: str, collect: Collect) -> dict[str, Loop]:
    """The same for a setting `KAKUREMICHI_METRICS_LISTEN`: :class:`ConfigError` if metrics may not be told there."""
    try:
        return metrics_loop(listen, collect)
    except ListenRefusedError as error:
        raise ConfigError((f"{PREFIX}METRICS_LISTEN: {error}",)) from error


@asynccontextmanager
async def _serving(where: Listen, collect: Collect) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_ASKED_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(head, collect))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or asked for nothing
        finally:
            writer.close()

    if where.path is None:
        server = await asyncio.start_server(answer, where.host, where.port, limit=_MOST_HEAD)
    else:
        server = await asyncio.start_unix_server(answer, sock=_private_socket(where.path), limit=_MOST_HEAD)
    try:
        async with server:
            yield
    finally:
        if where.path is not None:
            where.path.unlink(missing_ok=True)


def _private_socket(path: Path) -> socket.socket:
    """Bound and 0600 before it listens: until then nobody can connect."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock


async def _answer(head: bytes, collect: Collect) -> bytes:
    line = head.split(b"\r\n", 1)[0].split(b" ")
    if len(line) != 3 or line[0] != b"GET" or line[1].split(b"?")[0] != b"/metrics":
        return _response("404 Not Found", b"GET /metrics is all there is\n")
    try:
        body = exposition(await collect())
    except Exception:
        log.exception("metrics not collected")
        return _response("500 Internal Server Error", b"see the log\n")
    return _response("200 OK", body)


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + body
