"""What the installed HAProxy can do beyond the version that all of this is written for, 2.6."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

_VERSION = re.compile(r"^HAProxy version (\d+)\.(\d+)", re.MULTILINE)
_QUIC = re.compile(r"(?<!\S)\+QUIC\b")
_QUIC_COMPAT = re.compile(r"(?<!\S)\+QUIC_OPENSSL_COMPAT\b")
_BANDWIDTH_LIMITS = (2, 7)
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`quic`: HTTP/3 to visitors. `quic_compat`: on a plain OpenSSL, where HAProxy wants to be told that one means it.
    `bandwidth`: limits in bytes per second (otherwise nftables has them).
    """

    version: tuple[int, int] = (2, 6)
    quic: bool = False
    bandwidth: bool = False
    quic_compat: bool = False


OLDEST = Capabilities()


def parse_capabilities(text: str) -> Capabilities:
    """From `haproxy -vv`. What cannot be read counts as not there."""
    found = _VERSION.search(text)
    if found is None:
        return OLDEST
    version = int(found[1]), int(found[2])
    quic, compat = (pattern.search(text) is not None for pattern in (_QUIC, _QUIC_COMPAT))
    return Capabilities(version, quic=quic, bandwidth=version >= _BANDWIDTH_LIMITS, quic_compat=compat)


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
