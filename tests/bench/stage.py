"""Where the figures are taken: one lab with everything in it, of which each figure starts what it needs."""

import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

from bench.harness import progress
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet, PrivateService, fleet_in
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.topology import INTERNET, Host, Segment

PREFIX = "kb-"
STATIC_GATEWAY, STATIC_SITE = "gw-static", "site-d"

# One public host and one site more, without a node: the TCP baseline meets no table of ours on its way.
TOPOLOGY = replace(
    INTERNET,
    segments=(*INTERNET.segments, Segment("lan-d", "nat-d", IPv4Network("192.168.40.0/24"), None, 1)),
    hosts=(
        *INTERNET.hosts,
        Host(STATIC_GATEWAY, "public", 4),
        Host("nat-d", "public", 14, forwards=True, masquerades=True),
        Host(STATIC_SITE, "lan-d", 10),
    ),
)
STATIC = Path(__file__).with_name("static")
SITE = "site-a"


@dataclass
class Stage:
    """One lab and its fleet. What is started stays for the figures after it."""

    lab: Lab
    fleet: Fleet
    crowd_size: int = 0  # of the agents that crowd.py acts
    crowd_services: int = 0
    gateway_env: Mapping[str, str] = field(default_factory=dict)  # what every gateway finds in its environment
    few_services_ms: float = 0.0  # p50 of one change before many services came; 0: they have not come
    following: tuple[str, ...] = GATEWAYS  # those that are waited for; a figure may have stopped others
    _live: set[str] = field(default_factory=set)

    @property
    def directory(self) -> Path:
        return self.fleet.directory

    async def nodes(self, *, gateways: tuple[str, ...] = GATEWAYS, agents: tuple[str, ...] = (SITE,)) -> None:
        """The control plane and these nodes, live."""
        if not self._live:
            await self.fleet.start_control_plane()
        fresh = [[name for name in names if name not in self._live] for names in (gateways, agents)]
        for name in fresh[0]:
            await self.fleet.start_gateway(name, self.gateway_env)
        for name in fresh[1]:
            await self.fleet.start_agent(name)
        if any(fresh):
            await self.fleet.all_live([*fresh[0], *fresh[1]])
        self._live.update(*fresh)

    async def publish(self, service: PrivateService) -> tuple[str, int]:
        """Publish what runs already; (address in the tunnel, agent port) of its target."""
        return await self.publish_as(service, service.body)

    async def publish_as(self, service: PrivateService, body: Mapping[str, object]) -> tuple[str, int]:
        """The same with a request of one's own."""
        api = self.fleet.api()
        try:
            self.lab.add_name(service.host_name, "gw1")
            api.call("PUT", f"/services/{service.name}?wait=applied&timeout=10", dict(body))
            port = api.get(f"/services/{service.name}")["targets"][0]["agent_port"]
            subnet = IPv4Network(api.get(f"/agents/{service.agent}")["subnet"])
        finally:
            api.close()
        return str(subnet[100]), port


@asynccontextmanager
async def open_stage(gateway_env: Mapping[str, str] | None = None) -> AsyncIterator[Stage]:
    """A lab of its own in a folder of its own; both are gone afterwards, however this ends."""
    lab = Lab(PREFIX, topology=TOPOLOGY)
    directory = Path(tempfile.mkdtemp(prefix="kk-bench-"))
    try:
        lab.up(fresh=True, bound=True)
        async with fleet_in(lab, directory, progress) as fleet:
            try:
                yield Stage(lab, fleet, gateway_env=gateway_env or {})
            finally:
                progress("taking everything down")
                await fleet.units.down()
    finally:
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)


def answers(lab: Lab, address: str, port: int) -> bool:
    """Whether the visitor gets a TCP connection."""
    with lab.in_namespace("visitor"), socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((address, port)) == 0


def wait_until(what: str, ready: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Ask `ready` until it says yes; TimeoutError names `what`. Blocks: call it in a thread."""
    deadline = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not ready within {within_s:.0f} s")
        time.sleep(0.05)
