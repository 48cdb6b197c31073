"""One request to the portal, from a node."""

from pathlib import Path

import aiohttp

from kakuremichi.runtime.errors import reason_of
from kakuremichi.runtime.tls import context_for

TIMEOUT_S = 10.0


class PortalUnreachableError(Exception):
    """Nobody answered, or the portal cannot at the moment: worth another attempt later."""


class PortalRefusedError(Exception):
    """The portal said no; its sentence."""


def connector(url: str, ca_file: Path | None) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=context_for((url,), ca_file) or True)


async def post(url: str, body: bytes, ca_file: Path | None) -> bytes:
    """The answer's body. `url` is whole, `body` JSON; `ca_file` says whom to believe, None: the system's CAs."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector(url, ca_file)) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            data = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise PortalUnreachableError(f"{url}: {reason_of(error)}") from error
    if answer.status >= 500 or answer.status == 429:
        raise PortalUnreachableError(f"{url}: the portal answers {answer.status}")
    if answer.status != 200:
        raise PortalRefusedError(f"{url}: the portal refuses: {data.decode(errors='replace')[:500]}")
    return data
