"""The access log of services that ask for it: JSON whatever visitors say, and nothing of anybody else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kakuremichi.dataplane.haproxy import reloading
from kakuremichi.dataplane.haproxy.desired import Frontend, TcpService
from kakuremichi.model.ids import ServiceId
from support.haproxy import Gateway, ask, gateway, get, service, status, targets
from support.haproxy_upstreams import raw_target


@pytest.fixture
async def rig(run_dir: Path, free_port: Callable[[], int]) -> AsyncIterator[Gateway]:
    binds = f"80=127.0.0.1:{free_port()}", f"tcp=127.0.0.1:{free_port()}"
    frontend = Frontend(tcp=("TCP",), access_log=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloading, "GAP_S", 0.0)
        async with gateway(run_dir, *binds, frontend=frontend) as made:
            yield made


@pytest.fixture
def reader(rig: Gateway) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(rig.layout.access_log))
        made.setblocking(False)
        yield made


async def line(reader: socket.socket) -> dict[str, Any]:
    """The next one of a service; HAProxy tells of its reloads too."""
    async with asyncio.timeout(10):
        while not (text := await asyncio.get_running_loop().sock_recv(reader, 65536)).startswith(b"{"):
            pass
    read: dict[str, Any] = json.loads(text)
    return read


HOSTILE = '/a"b,"status":200}%0a\\x{}[]'


async def test_a_request_is_one_object_whatever_the_visitor_says(
    rig: Gateway, reader: socket.socket, free_port: Callable[[], int]
) -> None:
    async with targets(free_port, "t") as (target,):
        await rig.reconciler.put(replace(service("logged", target.server()), log_one_in=1))
        await rig.reconciler.put(service("silent", target.server()))
        assert await status(rig.port, get("silent.test")) == 200
        assert await status(rig.port, get("nobody.test")) == 404
        assert await status(rig.port, "nonsense\r\n\r\n") == 400
        agent = 'User-Agent: x", "y": \\ \té'
        assert await ask(rig.port, get("logged.test", f"{HOSTILE}?token=secret", agent))

        logged = await line(reader)

    assert (logged["service"], logged["host"], logged["method"]) == ("logged", "logged.test", "GET")
    assert logged["path"].startswith('/a"b,"status":200}%0a')
    assert logged["agent"].startswith('x", "y": \\')
    assert (logged["client"], logged["server"]) == ("127.0.0.1", "t")
    assert isinstance(logged["status"], int)
    assert "secret" not in str(logged)
    with pytest.raises(BlockingIOError):
        reader.recv(65536)


async def test_a_connection_of_tcp_is_one_too(
    rig: Gateway, reader: socket.socket, free_port: Callable[[], int]
) -> None:
    port = int(rig.binds[1].rpartition(":")[2])
    async with raw_target(free_port, b"220 ready\r\n") as target:
        await rig.reconciler.put(TcpService(ServiceId("t"), port, (target.server(),), log_one_in=1))
        visitor, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        await visitor.readline()
        writer.close()

        logged = await line(reader)

    assert (logged["service"], logged["port"], logged["bytes_in"], logged["bytes_out"]) == ("t", port, 6, 11)


async def test_visitors_are_served_while_nobody_reads(rig: Gateway, free_port: Callable[[], int]) -> None:
    async with targets(free_port, "t") as (target,):
        await rig.reconciler.put(replace(service("logged", target.server()), log_one_in=1))

        assert [await status(rig.port, get("logged.test")) for _ in range(20)] == [200] * 20
