"""The gateway's own HTTP service behind HAProxy: agents that cannot reach it any more say their key and learn ours.

HAProxy lets five requests a minute of one source come this far, each whole and at most 16 KiB (see its front end).
Nothing that comes in here is ever sent on.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web

from kakuremichi.node.direct import DirectRefusedError
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.direct import MAX_EXCHANGE_BYTES, PATH, Exchange

log = structlog.get_logger()

MOST_A_SECOND = 100  # of all sources together: two signatures each are then a few percent of a core
MEDIA_TYPE = "application/msgpack"


class Allowance:
    """`rate` a second, as many at once after a quiet second."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._since = rate, clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class WellKnown:
    """`take` judges what an agent says (:class:`DirectRefusedError`), `own` is what this gateway says of itself."""

    def __init__(self, socket: Path, take: Callable[[Exchange], object], own: Callable[[], Exchange]) -> None:
        self._socket, self._take, self._own = socket, take, own
        self._allowance = Allowance(MOST_A_SECOND)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen on the unix socket (0600: HAProxy runs as the same user) until `stop`."""
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        application = web.Application(client_max_size=MAX_EXCHANGE_BYTES)
        application.router.add_post(PATH, self._answer)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=5.0)
        await runner.setup()
        usual = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(self._socket)).start()
        finally:
            os.umask(usual)
        try:
            await stop.wait()
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._allowance.take():
            return web.Response(status=503, text="busy\n", headers={"Retry-After": "5"})
        try:
            self._take(decode(await request.read(), Exchange, name="exchange"))
            answer = encode(self._own())
        except WireError as error:
            return web.Response(status=400, text=f"{error}\n")
        except DirectRefusedError as error:
            log.warning("direct announcement refused", reason=str(error))
            return web.Response(status=403, text=f"{error}\n")
        return web.Response(body=answer, content_type=MEDIA_TYPE)
