"""WebSocket at a site, through every gateway, by HTTP and HTTPS: messages of any size, and over reloads of HAProxy."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from kakuremichi.dataplane.haproxy.files import Layout
from kakuremichi.dataplane.haproxy.proxy import Haproxy
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from support.fleet import put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)  # around the three ways to say a length, and more than a buffer
WAIT_S = 20
Socket = aiohttp.ClientWebSocketResponse


class OneAddress(AbstractResolver):
    """Every name leads to one gateway."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def opened(fleet: Fleet, gateway: str, url: str) -> AsyncIterator[Socket]:
    """A WebSocket of the visitor, certificate and name checked if the URL says wss."""

    def of_the_visitor(asked: Any) -> socket.socket:
        family, kind, proto, *_ = asked
        with fleet.lab.in_namespace("visitor"):
            return socket.socket(family, kind, proto)

    trusted = ssl.create_default_context(cafile=str(fleet.directory / "certificates" / "lab.pem"))
    connector = aiohttp.TCPConnector(
        resolver=OneAddress(fleet.lab.address(gateway)), socket_factory=of_the_visitor, ssl=trusted
    )
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(url, autoping=False) as connection,
    ):
        yield connection


async def echoed(connection: Socket, message: bytes | str) -> None:
    """The message comes back as it was, of its own kind."""
    if isinstance(message, str):
        await connection.send_str(message)
        assert await connection.receive_str(timeout=WAIT_S) == message
    else:
        await connection.send_bytes(message)
        assert await connection.receive_bytes(timeout=WAIT_S) == message


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_messages_of_all_sizes_come_back_through_every_gateway(fleet: Fleet, scheme: str) -> None:
    host = f"echo-{scheme}.lab.test"
    put(fleet, f"echo-{scheme}", kind="http", host=host)

    for gateway in GATEWAYS:
        async with opened(fleet, gateway, f"{scheme}://{host}/ws") as connection:
            for size in SIZES:
                await echoed(connection, (bytes(range(256)) * (size // 256 + 1))[:size])
                await echoed(connection, "隠" * (size // 3))
            await connection.ping(b"are you there")
            pong = await connection.receive(timeout=WAIT_S)
            assert (pong.type, bytes(pong.data)) == (aiohttp.WSMsgType.PONG, b"are you there")
            await connection.close()
            assert connection.close_code == aiohttp.WSCloseCode.OK  # the target's own word; 1006 if none came


async def test_messages_under_way_do_not_wait_for_each_other(fleet: Fleet) -> None:
    """All are sent before the first is read, both directions full at once."""
    put(fleet, "echo-many", kind="http", host="echo-many.lab.test")
    messages = [number.to_bytes(2) * 5_000 for number in range(500)]

    async with opened(fleet, "gw1", "wss://echo-many.lab.test/ws") as connection, asyncio.timeout(60):

        async def send_all() -> None:
            for message in messages:
                await connection.send_bytes(message)

        sending = asyncio.create_task(send_all())
        assert [await connection.receive_bytes() for _ in messages] == messages
        await sending


async def test_an_idle_one_lives_through_a_reload_and_a_change_of_its_own_service(fleet: Fleet) -> None:
    host = "echo-idle.lab.test"
    put(fleet, "echo-idle", kind="http", host=host)
    async with opened(fleet, "gw1", f"ws://{host}/ws") as plain, opened(fleet, "gw1", f"wss://{host}/ws") as secure:
        await echoed(plain, b"before")
        before = await worker(fleet, "gw1")

        # Headers are text of the backend, which only a new worker has.
        headers = {"http": {"response": {"set": {"X-Changed": "yes"}}}}
        put(fleet, "echo-idle", kind="http", host=host, options=headers)

        assert await worker(fleet, "gw1") != before
        await echoed(plain, b"after")
        await echoed(secure, b"after")
        async with opened(fleet, "gw1", f"wss://{host}/ws") as later:
            await echoed(later, "new")


async def test_one_without_a_byte_ends_after_the_time_that_the_service_gives(fleet: Fleet) -> None:
    put(fleet, "echo-short", kind="http", host="echo-short.lab.test", options={"timeouts": {"idle": 1}})

    async with opened(fleet, "gw1", "ws://echo-short.lab.test/ws") as connection:
        await echoed(connection, b"alive")
        ended = await connection.receive(timeout=WAIT_S)
        assert ended.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)


async def worker(fleet: Fleet, gateway: str) -> int:
    """The process that takes new connections."""
    return (await Haproxy(Layout(fleet.node_host(gateway).haproxy)).running()).pid
