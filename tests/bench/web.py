"""HTTP and HTTPS requests/s through the gateway against a HAProxy configured by hand, on the same path."""

import asyncio
import re
import resource
from dataclasses import dataclass
from functools import partial
from typing import Literal

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
Scheme = Literal["http", "https"]
_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_TROUBLE = re.compile(r"^\s*(Socket errors|Non-2xx).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a static HAProxy listens."""

    http: int
    https: int


STATIC_WEB = Ports(8080, 8443)


async def measure(stage: Stage, *, scheme: Scheme) -> list[Figure]:
    await prepare(stage)

    async def take(url: str) -> float:
        return await asyncio.to_thread(requests_per_second, stage.lab, url)

    ours, static = urls(scheme)
    return [await ratio(f"{scheme}_requests_ratio", lambda: take(ours), lambda: take(static))]


async def prepare(stage: Stage) -> None:
    """The fast private service, published through gw1 and through the HAProxy written by hand beside it."""
    await stage.nodes()
    await start_target(stage, SITE, SERVICE.address)
    await start_static(stage, "web", SERVICE.host_name, await stage.publish(SERVICE), STATIC_WEB)
    for port in (80, 443):
        await reachable(stage, stage.lab.address("gw1"), port)


def urls(scheme: Scheme) -> tuple[str, str]:
    """(through the gateway, through the static HAProxy) of the fast private service."""
    port = STATIC_WEB.http if scheme == "http" else STATIC_WEB.https
    return f"{scheme}://{SERVICE.host_name}/", f"{scheme}://{SERVICE.host_name}:{port}/"


def requests_per_second(lab: Lab, url: str, *options: str, seconds: int = SECONDS) -> float:
    """Keep-alive requests from the visitor; an error or an answer other than 2xx ends the measurement."""
    return float(_RATE.findall(wrk(lab, url, *options, seconds=seconds))[0])


def wrk(lab: Lab, url: str, *options: str, seconds: int, arguments: tuple[str, ...] = ()) -> str:
    """What wrk prints, run by the visitor; `options` of its own besides, `arguments` for its script."""
    # The name is also the TLS server name, which the gateway compares with the request's host.
    argv = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(CONNECTIONS),
        "-d",
        f"{seconds}s",
        *options,
        url,
        *(("--", *arguments) if arguments else ()),
    ]
    done = lab.run("visitor", argv, timeout=seconds + 15)
    trouble = _TROUBLE.search(done.stdout)
    if trouble is not None or not _RATE.search(done.stdout):
        raise RuntimeError(f"wrk {url}: {trouble[0].strip() if trouble else done.stderr.strip()}")
    return done.stdout


async def start_target(stage: Stage, host: str, address: str) -> None:
    """static/target.cfg on `host`: port 8088 plain, 8089 with PROXY protocol."""
    await stage.fleet.units.start(haproxy_unit(stage, f"target-{host}", "target", host, {"BENCH_TARGET": address}))


async def start_static(stage: Stage, name: str, host_name: str, target: tuple[str, int], ports: Ports) -> None:
    """static/haproxy.cfg beside the gateway gw1, with the same limits as the gateway's own; `target` in the tunnel."""
    words = {
        "BENCH_TARGET": f"{target[0]}:{target[1]}",
        "BENCH_HOST": host_name,
        "BENCH_HTTP_PORT": str(ports.http),
        "BENCH_HTTPS_PORT": str(ports.https),
        "BENCH_CRT_LIST": str(make_certificate(stage.directory / "certificates")),
        **limits(),
    }
    await stage.fleet.units.start(haproxy_unit(stage, name, "haproxy", "gw1", words))
    for port in (ports.http, ports.https):
        await reachable(stage, stage.lab.address("gw1"), port)


def limits() -> dict[str, str]:
    """The gateway's own limits of a HAProxy, for one written by hand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FD_CEILING if hard == resource.RLIM_INFINITY else min(hard, FD_CEILING)
    return {"BENCH_ULIMIT": str(limit), "BENCH_MAXCONN": str(maxconn_for(limit))}


async def reachable(stage: Stage, address: str, port: int) -> None:
    await asyncio.to_thread(wait_until, f"{address}:{port}", partial(answers, stage.lab, address, port))


def haproxy_unit(stage: Stage, name: str, config: str, host: str, words: dict[str, str]) -> Unit:
    """static/<config>.cfg on `host`, in the foreground as master and worker, as the gateway's own runs."""
    return Unit(
        name=f"static-{name}",
        argv=(str(find_haproxy()), "-W", "-f", str(STATIC / f"{config}.cfg")),
        namespace=stage.lab.namespace(host),
        env=words,
        log=str(stage.directory / f"static-{name}.log"),
    )
