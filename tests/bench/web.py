"""HTTP and HTTPS requests/s through the gateway against a HAProxy configured by hand, on the same path."""

import asyncio
import re
import resource
from functools import partial

from bench.harness import Figure, ratio
from bench.stage import SITE, STATIC, Stage, answers, wait_until
from kakuremichi.dataplane.haproxy.launch import FD_CEILING, maxconn_for
from kakuremichi.fleet.certificates import make_certificate
from kakuremichi.fleet.lab_fleet import PrivateService
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.programs import find_haproxy
from kakuremichi.lab.units import Unit

SECONDS = 5
CONNECTIONS = 64
SERVICE = PrivateService("bench-web", SITE, SITE, "192.168.10.10", 8088)
OURS = {"http": 80, "https": 443}
STATIC_PORTS = {"http": 8080, "https": 8443}  # of static/haproxy.cfg
_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_TROUBLE = re.compile(r"^\s*(Socket errors|Non-2xx).*$", re.MULTILINE)


async def measure(stage: Stage, *, scheme: str) -> list[Figure]:
    await stage.nodes()
    await stage.fleet.units.start(_target(stage))
    target, port = await stage.publish(SERVICE)
    await stage.fleet.units.start(_static(stage, f"{target}:{port}"))
    for port in (OURS[scheme], STATIC_PORTS[scheme]):
        ready = partial(answers, stage.lab, stage.lab.address("gw1"), port)
        await asyncio.to_thread(wait_until, f"gw1:{port}", ready)

    async def take(url: str) -> float:
        return await asyncio.to_thread(requests_per_second, stage.lab, url)

    figure = await ratio(
        f"{scheme}_requests_ratio",
        lambda: take(f"{scheme}://{SERVICE.host_name}/"),
        lambda: take(f"{scheme}://{SERVICE.host_name}:{STATIC_PORTS[scheme]}/"),
    )
    return [figure]


def requests_per_second(lab: Lab, url: str) -> float:
    """Keep-alive requests from the visitor; an error or an answer other than 2xx ends the measurement."""
    # The name is also the TLS server name, which the gateway compares with the request's host.
    argv = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{SECONDS}s", url]
    done = lab.run("visitor", argv, timeout=SECONDS + 15)
    rate, trouble = _RATE.search(done.stdout), _TROUBLE.search(done.stdout)
    if rate is None or trouble is not None:
        raise RuntimeError(f"wrk {url}: {trouble[0].strip() if trouble else done.stderr.strip()}")
    return float(rate[1])


def _target(stage: Stage) -> Unit:
    return _haproxy(stage, "target", SITE, {"BENCH_TARGET": f"{SERVICE.address}:{SERVICE.port}"})


def _static(stage: Stage, target: str) -> Unit:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FD_CEILING if hard == resource.RLIM_INFINITY else min(hard, FD_CEILING)
    words = {
        "BENCH_TARGET": target,
        "BENCH_HOST": SERVICE.host_name,
        "BENCH_CRT_LIST": str(make_certificate(stage.directory / "certificates")),
        "BENCH_ULIMIT": str(limit),
        "BENCH_MAXCONN": str(maxconn_for(limit)),
    }
    return _haproxy(stage, "haproxy", "gw1", words)


def _haproxy(stage: Stage, name: str, host: str, words: dict[str, str]) -> Unit:
    """static/<name>.cfg on `host`, in the foreground as master and worker, as the gateway's own runs."""
    return Unit(
        name=f"static-{name}",
        argv=(str(find_haproxy()), "-W", "-f", str(STATIC / f"{name}.cfg")),
        namespace=stage.lab.namespace(host),
        env=words,
        log=str(stage.directory / f"static-{name}.log"),
    )
