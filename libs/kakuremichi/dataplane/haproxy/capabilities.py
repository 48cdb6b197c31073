"""What the installed HAProxy can do beyond the version that all of this is written for, 2.6."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

_VERSION = re.compile(r"^HAProxy version (\d+)\.(\d+)", re.MULTILINE)
_QUIC = re.compile(r"(?<!\S)\+QUIC\b")
_BANDWIDTH_LIMITS = (2, 7)
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`quic`: HTTP/3 to visitors. `bandwidth`: limits in bytes per second (otherwise nftables has them)."""

    version: tuple[int, int] = (2, 6)
    quic: bool = False
    bandwidth: bool = False


OLDEST = Capabilities()


def parse_capabilities(text: str) -> Capabilities:
    """From `haproxy -vv`. What cannot be read counts as not there."""
    found = _VERSION.search(text)
    if found is None:
        return OLDEST
    version = int(found[1]), int(found[2])
    return Capabilities(version, quic=_QUIC.search(text) is not None, bandwidth=version >= _BANDWIDTH_LIMITS)


async def probe(program: Path) -> Capabilities:
    """Ask the program itself; OLDEST if it does not answer."""
    try:
        process = await asyncio.create_subprocess_exec(
            str(program), "-vv", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return OLDEST
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _PROBE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return OLDEST
    return parse_capabilities(output.decode(errors="replace"))
