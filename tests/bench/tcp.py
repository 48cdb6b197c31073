"""TCP through gateway, tunnel and agent against the same hops with plain routing."""

import asyncio
import json
import socket
import string
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.harness import Figure, ratio
from bench.stage import SITE, STATIC, STATIC_GATEWAY, STATIC_SITE, Stage, answers, wait_until
from kakuremichi.fleet.lab_fleet import PrivateService
from kakuremichi.fleet.nodes import engine_unit
from kakuremichi.lab import namespaces
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.units import Unit
from kakuremichi.model.keys import PrivateKey

PAIRS = 31  # single ones differ by a twelfth from each other, the medians of 15 by a fortieth
SECONDS = 2  # short, as what else the machine does comes and goes within seconds
PORT = 5201
BARE = "10.254.0.100"
UAPI = Path("/var/run/wireguard")
SERVICE = PrivateService("bench-tcp", SITE, SITE, "192.168.10.10", PORT, public_port=PORT)


class StaticHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host of static/tunnel.toml."""

    uapi: str
    ip: tuple[str, ...]
    sysctl: dict[str, str]


async def measure(stage: Stage) -> list[Figure]:
    gateway = await prepare(stage)

    async def take(address: str) -> float:
        return await asyncio.to_thread(megabits, stage.lab, address)

    return [await ratio("tcp_through_gateway_ratio", lambda: take(gateway), lambda: take(BARE), pairs=PAIRS)]


async def prepare(stage: Stage) -> str:
    """A server behind gw1 and one behind the bare tunnel, at BARE; the address of gw1, published there by TCP."""
    await stage.nodes()
    await _start_servers(stage)
    await start_tunnel(stage)
    await stage.publish(SERVICE)
    gateway = stage.lab.address("gw1")
    for address in (gateway, BARE):
        await asyncio.to_thread(wait_until, f"{address}:{PORT}", partial(answers, stage.lab, address, PORT))
    return gateway


def megabits(lab: Lab, address: str) -> float:
    """One stream from the visitor for SECONDS; what arrived, in Mbit/s."""
    return float(iperf3(lab, address)["end"]["sum_received"]["bits_per_second"]) / 1e6


def iperf3(lab: Lab, address: str, *options: str, seconds: int = SECONDS) -> dict[str, Any]:
    """What iperf3 tells of so many seconds of one stream; `options` of its own besides."""
    argv = ["iperf3", "-c", address, "-p", str(PORT), "-t", str(seconds), "-J", *options]
    done = lab.run("visitor", argv, timeout=seconds + 10)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise RuntimeError(f"iperf3 to {address}: {answer['error']}")
    return answer


async def _start_servers(stage: Stage) -> None:
    # An answer by UDP has to leave from the address that was asked, which a wildcard would let the route choose.
    for host, bind in ((SITE, ("-B", SERVICE.address)), (STATIC_SITE, ())):
        log = str(stage.directory / f"iperf3-{host}.log")
        argv = ("iperf3", "-s", "-p", str(PORT), *bind)
        await stage.fleet.units.start(
            Unit(name=f"iperf3-{host}", argv=argv, namespace=stage.lab.namespace(host), log=log)
        )


async def start_tunnel(stage: Stage) -> None:
    """Set up static/tunnel.toml; a second time it gets other keys."""
    keys = {"gateway": PrivateKey.generate(), "agent": PrivateKey.generate()}
    words = {f"{name}_private": key.reveal().hex() for name, key in keys.items()}
    words |= {f"{name}_public": bytes(key.public()).hex() for name, key in keys.items()}
    config = msgspec.convert(tomllib.loads((STATIC / "tunnel.toml").read_text()), dict[str, StaticHost])
    for name in (STATIC_GATEWAY, STATIC_SITE):
        host = stage.fleet.node_host(name)
        host.directory.mkdir(parents=True, exist_ok=True)
        await stage.fleet.units.start(engine_unit(host))
    for name, static in config.items():
        namespace = stage.lab.namespace(name)
        if static.uapi:
            text = string.Template(static.uapi).substitute(words)
            await asyncio.to_thread(_set_uapi, UAPI / f"{namespace}.sock", text)
        lines = (string.Template(line).substitute(interface=namespace) for line in static.ip)
        namespaces.ip_batch(namespace, lines)
        for key, value in static.sysctl.items():
            namespaces.write_sysctl(namespace, key, value)


def _set_uapi(path: Path, text: str) -> None:
    wait_until(str(path), path.is_socket)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.connect(str(path))
        engine.sendall(f"set=1\n{text.strip()}\n\n".encode())
        if b"errno=0\n" not in engine.recv(4096):
            raise RuntimeError(f"{path}: the engine refused the static tunnel")
