"""A real HAProxy under its real parent on loopback, and targets behind it."""

import asyncio
import functools
import hashlib
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from aiohttp import WSMsgType, web

from kakuremichi.dataplane.haproxy import launch
from kakuremichi.dataplane.haproxy.capabilities import Capabilities, parse_capabilities
from kakuremichi.dataplane.haproxy.client import RuntimeClient
from kakuremichi.dataplane.haproxy.desired import Frontend, HttpService, Server
from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.dataplane.haproxy.reconcile import Reconciler
from kakuremichi.model.ids import ServiceId

LOOPBACK = ip_address("127.0.0.1")


@functools.cache
def installed() -> Capabilities:
    """Of the HAProxy that all tests run: the first one on PATH."""
    program = launch.find_program()
    assert program is not None, "haproxy is not on PATH"
    return parse_capabilities(subprocess.run([program, "-vv"], capture_output=True, text=True, check=True).stdout)


@dataclass
class Gateway:
    """`binds` are arguments of the holder; the first one is plain HTTP. It runs in `namespace`, if one is named."""

    directory: Path
    binds: tuple[str, ...]
    frontend: Frontend
    pool_size: int = 8
    namespace: str = ""
    holder: "subprocess.Popen[bytes] | None" = None
    reconciler: Reconciler = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.directory)
        self.reconciler = self.another_reconciler()

    @property
    def port(self) -> int:
        return int(self.binds[0].rpartition(":")[2])

    def another_reconciler(self) -> Reconciler:
        return Reconciler(
            Haproxy(self.layout), self.frontend, self.layout, pool_size=self.pool_size, tcp_pool_size=2,
            capabilities=installed(),
        )  # fmt: skip

    def start_holder(self, *arguments: str) -> None:
        binds = ["--grace", "0.2", *(word for bind in self.binds for word in ("--bind", bind))]
        module = ("-m", "kakuremichi.dataplane.haproxy.holder", "--dir", str(self.directory))
        self.start_command(*module, *binds, *arguments)

    def start_command(self, *arguments: str) -> None:
        with (self.directory / "holder.log").open("ab") as log:
            inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
            self.holder = subprocess.Popen([*inside, sys.executable, *arguments], stdout=log, stderr=log)

    def end_holder(self, signum: signal.Signals = signal.SIGTERM) -> None:
        if self.holder is not None:
            self.holder.send_signal(signum)
            self.holder.wait(timeout=20)
            self.holder = None

    async def processes(self) -> tuple[int, int]:
        """(master, worker) once both answer. After a refused reload HAProxy 3.1 calls the worker an old one."""
        while True:
            with suppress(Exception):
                reply = await RuntimeClient(self.layout.master_socket).ask_master(("show", "proc"))
                master = re.search(r"^(\d+)\s+master", reply, re.MULTILINE)
                worker = re.search(r"^# (?:old )?workers\s+(\d+)\s+worker\s", reply, re.MULTILINE)
                running = await Haproxy(self.layout).running()
                if master and worker and running.pid == int(worker[1]):
                    return int(master[1]), int(worker[1])
            await asyncio.sleep(0.02)

    async def other_processes(self, than: tuple[int, int]) -> tuple[int, int]:
        """As `processes`, once neither is the former one."""

        async def differ() -> bool:
            return (await self.processes())[0] != than[0]

        assert await until(differ), self.said()
        return await self.processes()

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))


@asynccontextmanager
async def gateway(
    directory: Path, *binds: str, frontend: Frontend | None = None, pool_size: int = 8, namespace: str = ""
) -> AsyncIterator[Gateway]:
    """Started with an empty configuration; stopped with all it started, even if the holder was killed meanwhile."""
    rig = Gateway(directory, binds, frontend or Frontend(), pool_size, namespace)
    await rig.reconciler.full(())
    rig.start_holder()
    try:
        async with asyncio.timeout(20):
            await rig.processes()
            assert (await rig.reconciler.compare()).errors == (), rig.said()
        yield rig
    finally:
        if rig.holder is not None:
            rig.end_holder(signal.SIGTERM)
        elif (left := launch.find_running(rig.layout)) is not None:
            left.send(signal.SIGTERM)
            await asyncio.to_thread(select.select, [left.pidfd], [], [], 10)
            left.forget()


@dataclass
class Target:
    """An HTTP server at the far end: tells what it was asked, echoes WebSockets, sends and takes large bodies."""

    name: str
    port: int
    requests: list[Mapping[str, object]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def server(self, weight: int = 100) -> Server:
        return Server(self.name, LOOPBACK, self.port, weight)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await _echo(request)
        digest = hashlib.sha256()
        async for chunk in request.content.iter_chunked(65536):
            digest.update(chunk)
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = {"target": self.name, "path": request.raw_path, "headers": headers, "sha256": digest.hexdigest()}
        self.requests.append(seen)
        self.asked.set()
        if request.path == "/hang":
            await self.released.wait()
        if request.path.startswith("/bytes/"):
            return web.Response(body=pattern(int(request.path.rpartition("/")[2])))
        return web.json_response(seen)


def pattern(size: int) -> bytes:
    """The same bytes each time, without a period that a lost buffer could hide behind."""
    seed = b"".join(hashlib.sha256(index.to_bytes(4)).digest() for index in range(1021))
    return (seed * (size // len(seed) + 1))[:size]


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


@asynccontextmanager
async def targets(free_port: Callable[[], int], *names: str) -> AsyncIterator[tuple[Target, ...]]:
    async with AsyncExitStack() as stack:
        made = []
        for name in names:
            target = Target(name, free_port())
            app = web.Application(client_max_size=0)
            app.router.add_route("*", "/{path:.*}", target.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(target.released.set)
            await web.TCPSite(runner, str(LOOPBACK), target.port).start()
            made.append(target)
        yield tuple(made)


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float = 20.0) -> bool:
    """Whether it came to hold in time, asked every 20 ms: HAProxy tells nobody."""
    end = time.monotonic() + within_s
    while not await holds():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


def service(name: str, *servers: Server, host: str = "") -> HttpService:
    return HttpService(ServiceId(name), host or f"{name}.test", servers)


async def ask(port: int, request: str | bytes) -> bytes:
    """Everything that comes back for these raw bytes; b"" if the connection was closed without a word."""
    reader, writer = await asyncio.open_connection(str(LOOPBACK), port)
    try:
        writer.write(request.encode("latin-1") if isinstance(request, str) else request)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def status(port: int, request: str | bytes) -> int:
    """The status of the answer, 0 without one."""
    answer = await ask(port, request)
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def get(host: str, path: str = "/", *headers: str) -> str:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    if not any(header.lower().startswith("connection:") for header in headers):
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""])


@dataclass
class Knocking:
    """Connects and asks every few milliseconds, each time anew, and keeps count of what went wrong."""

    port: int
    host: str
    answered: int = 0
    refused: int = 0
    lost: int = 0  # connected, but ended without an answer: what a killed process had in hand
    other: list[bytes] = field(default_factory=list)
    slowest_s: float = 0.0

    async def once(self) -> None:
        began = time.monotonic()
        try:
            answer = await ask(self.port, get(self.host))
        except ConnectionRefusedError:
            self.refused += 1
        except ConnectionError:
            self.lost += 1
        else:
            if answer.startswith(b"HTTP/1.1 200"):
                self.answered += 1
            elif answer:
                self.other.append(answer[:80])
            else:
                self.lost += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


@asynccontextmanager
async def knocking(port: int, host: str, *, every_s: float = 0.004, most: int = 8000) -> AsyncIterator[Knocking]:
    """Goes on while the block runs, bounded by `most` connections."""
    count = Knocking(port, host)
    stop = asyncio.Event()

    async def knock() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(most):
                if stop.is_set():
                    return
                tasks.create_task(count.once())
                await asyncio.sleep(every_s)

    task = asyncio.create_task(knock())
    try:
        yield count
    finally:
        stop.set()
        await task
