"""TCP through gateway, tunnel and agent against the same hops with plain routing."""

import asyncio
import json
import socket
import string
import tomllib
from functools import partial
from pathlib import Path

import msgspec

from bench.harness import Figure, ratio
from bench.stage import SITE, STATIC, STATIC_GATEWAY, STATIC_SITE, Stage, answers, wait_until
from kakuremichi.fleet.lab_fleet import PrivateService
from kakuremichi.fleet.nodes import engine_unit
from kakuremichi.lab import namespaces
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.units import Unit
from kakuremichi.model.keys import PrivateKey

SECONDS = 5
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
    await stage.nodes()
    await _start_servers(stage)
    await _start_tunnel(stage)
    await stage.publish(SERVICE)
    gateway = stage.lab.address("gw1")
    for address in (gateway, BARE):
        await asyncio.to_thread(wait_until, f"{address}:{PORT}", partial(answers, stage.lab, address, PORT))

    async def take(address: str) -> float:
        return await asyncio.to_thread(megabits, stage.lab, address)

    return [await ratio("tcp_through_gateway_ratio", lambda: take(gateway), lambda: take(BARE))]


def megabits(lab: Lab, address: str) -> float:
    """One stream from the visitor for SECONDS; what arrived, in Mbit/s."""
    argv = ["iperf3", "-c", address, "-p", str(PORT), "-t", str(SECONDS), "-J"]
    done = lab.run("visitor", argv, timeout=SECONDS + 10)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RuntimeError(f"iperf3 to {address}: {answer['error']}")
    return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e6


async def _start_servers(stage: Stage) -> None:
    for host in (SITE, STATIC_SITE):
        log = str(stage.directory / f"iperf3-{host}.log")
        argv = ("iperf3", "-s", "-p", str(PORT))
        await stage.fleet.units.start(
            Unit(name=f"iperf3-{host}", argv=argv, namespace=stage.lab.namespace(host), log=log)
        )


async def _start_tunnel(stage: Stage) -> None:
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
