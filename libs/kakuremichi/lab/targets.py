"""The private services of the sites: `python -m kakuremichi.lab.targets --site site-a --http 192.168.10.10:8080`.

HTTP answers say who was reached and what arrived there; TCP greets with the site's name and echoes; UDP echoes.

    GET  /…            JSON: site, method, path, query, headers (list of pairs), peer
    GET  /bytes/N      N bytes (at most 1 GiB) of `pattern`, so that a test can recompute their hash
    PUT  /upload       JSON: bytes and sha256 of the body
    GET  /status/NNN   that status, empty
    GET  /sleep/MS     answers after MS milliseconds (at most 60,000)
    GET  /sse/N        N server-sent events, 50 ms apart
    GET  /ws           WebSocket echo
"""

import argparse
import asyncio
import hashlib
import json
import signal
from contextlib import suppress
from typing import cast

from aiohttp import WSMsgType, web

_BLOCK = bytes(range(251)) * 256  # 251 is prime: no power-of-two buffer repeats the pattern
_MOST_BYTES = 1 << 30
_MOST_SLEEP_MS = 60_000
_SITE = web.AppKey("site", str)


def pattern(count: int) -> bytes:
    """The body of `/bytes/count`."""
    return (_BLOCK * (count // len(_BLOCK) + 1))[:count]


def application(site: str) -> web.Application:
    app = web.Application(client_max_size=_MOST_BYTES)
    app[_SITE] = site
    app.add_routes(
        [
            web.get(r"/bytes/{count:\d{1,10}}", _bytes),
            web.route("*", "/upload", _upload),
            web.get(r"/status/{status:[2-5]\d\d}", _status),
            web.get(r"/sleep/{ms:\d{1,5}}", _sleep),
            web.get(r"/sse/{count:\d{1,4}}", _events),
            web.get("/ws", _websocket),
            web.route("*", "/{tail:.*}", _describe),
        ]
    )
    return app


async def _describe(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "site": request.app[_SITE],
            "method": request.method,
            "path": request.path,
            "query": request.query_string,
            "headers": list(request.headers.items()),
            "peer": request.remote,
        }
    )


async def _bytes(request: web.Request) -> web.StreamResponse:
    left = int(request.match_info["count"])
    if left > _MOST_BYTES:
        raise web.HTTPBadRequest(text=f"{left} bytes: at most {_MOST_BYTES}")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = left
    await response.prepare(request)
    while left > 0:
        piece = _BLOCK[:left]
        await response.write(piece)
        left -= len(piece)
    return response


async def _upload(request: web.Request) -> web.Response:
    digest, count = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        count += len(piece)
    return web.json_response({"site": request.app[_SITE], "bytes": count, "sha256": digest.hexdigest()})


async def _status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["status"]))


async def _sleep(request: web.Request) -> web.Response:
    await asyncio.sleep(min(int(request.match_info["ms"]), _MOST_SLEEP_MS) / 1000)
    return await _describe(request)


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    for number in range(int(request.match_info["count"])):
        await response.write(f"id: {number}\ndata: {json.dumps({'site': request.app[_SITE]})}\n\n".encode())
        await asyncio.sleep(0.05)
    return response


async def _websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


class _TcpGreeter:
    def __init__(self, site: str) -> None:
        self._greeting = f"hello from {site}\n".encode()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(self._greeting)
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()


class _UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is no subclass of it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


async def serve(
    site: str,
    *,
    http: tuple[tuple[str, int], ...] = (),
    tcp: tuple[tuple[str, int], ...] = (),
    udp: tuple[tuple[str, int], ...] = (),
) -> None:
    """Serve on the given (address, port) pairs until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    runner = web.AppRunner(application(site), access_log=None, shutdown_timeout=1)
    await runner.setup()
    for address, port in http:
        await web.TCPSite(runner, address, port, backlog=1024).start()
    for address, port in tcp:
        await asyncio.start_server(_TcpGreeter(site), address, port, backlog=1024)
    for address, port in udp:
        await loop.create_datagram_endpoint(_UdpEcho, local_addr=(address, port))
    await stop.wait()
    await runner.cleanup()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}: not of the form ADDRESS:PORT")
    return host.strip("[]"), int(port)


def main() -> None:
    parser = argparse.ArgumentParser(prog="kakuremichi.lab.targets", description="private services to be reached")
    parser.add_argument("--site", required=True, help="the name that every answer carries")
    for kind in ("http", "tcp", "udp"):
        parser.add_argument(
            f"--{kind}", type=_address, action="append", default=[], metavar="ADDRESS:PORT", help="may be repeated"
        )
    given = parser.parse_args()
    asyncio.run(serve(given.site, http=tuple(given.http), tcp=tuple(given.tcp), udp=tuple(given.udp)))


if __name__ == "__main__":
    main()
