"""HTTP/2 requests/s through the gateway against the HAProxy written by hand, on the same path."""

import asyncio
import re

from bench.harness import Figure, ratio
from bench.stage import Stage
from bench.web import SECONDS, prepare, urls
from kakuremichi.lab.internet import Lab

PAIRS = 5
CONNECTIONS, STREAMS = 16, 16
_RATE = re.compile(r"^finished in .*?, ([0-9.]+) req/s", re.MULTILINE)
_PROTOCOL = re.compile(r"^Application protocol: h2$", re.MULTILINE)
_TROUBLE = re.compile(r"\b[1-9]\d* (failed|errored|timeout|3xx|4xx|5xx)\b")


async def measure(stage: Stage) -> list[Figure]:
    await prepare(stage)

    async def take(url: str) -> float:
        return await asyncio.to_thread(requests_per_second, stage.lab, url)

    ours, static = urls("https")
    return [await ratio("http2_requests_ratio", lambda: take(ours), lambda: take(static), pairs=PAIRS)]


def requests_per_second(lab: Lab, url: str) -> float:
    """Over TLS; a request that fails or is not answered with 2xx ends the measurement."""
    argv = ["h2load", "-t", "1", "-c", str(CONNECTIONS), "-m", str(STREAMS), "-D", str(SECONDS), url]
    done = lab.run("visitor", argv, timeout=SECONDS + 15)
    try:
        return rate_of(done.stdout)
    except ValueError as error:
        raise RuntimeError(f"h2load {url}: {error} {done.stderr.strip()[-200:]}") from error


def rate_of(printed: str) -> float:
    """Requests/s in what h2load printed; ValueError unless all went well and by HTTP/2."""
    rate, trouble = _RATE.search(printed), _TROUBLE.search(printed)
    if rate is None or trouble is not None or not _PROTOCOL.search(printed):
        raise ValueError(trouble[0] if trouble else "no rate, or another protocol than h2")
    return float(rate[1])
