"""Everything of the lab running: the control plane, three gateways, three agents, the private services behind them."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from kakuremichi.fleet.api import Api, ApiError
from kakuremichi.fleet.certificates import make_certificate
from kakuremichi.fleet.control_plane import ControlPlane, Options
from kakuremichi.fleet.nodes import NodeHost, agent_unit, engine_unit, gateway_unit, holder_unit
from kakuremichi.lab.internet import Lab
from kakuremichi.lab.keeper_client import Units
from kakuremichi.lab.units import Unit
from kakuremichi.runtime.tls import client_context

PORTAL_PORT = 8080
NATS_PORT = 4222
GATEWAYS = ("gw1", "gw2", "gw3")
AGENTS = ("site-a", "site-b", "site-c")
READY_S = 60.0


class FleetError(Exception):
    """Something of the fleet did not come up; a sentence that says what and where to look."""


@dataclass(frozen=True, slots=True)
class PrivateService:
    """A program at a site and what it is published as. `host` runs it, `agent` reaches it at `address`."""

    name: str
    agent: str
    host: str
    address: str
    port: int
    public_port: int = 0  # 0: HTTP, by the name <name>.lab.test

    @property
    def host_name(self) -> str:
        return f"{self.name}.lab.test"

    @property
    def body(self) -> dict[str, object]:
        """The request that publishes it."""
        target = {"agent": self.agent, "address": self.address, "port": self.port}
        kind = (
            {"kind": "tcp", "port": self.public_port} if self.public_port else {"kind": "http", "host": self.host_name}
        )
        return {"name": self.name, **kind, "targets": [target]}

    @property
    def argv(self) -> tuple[str, ...]:
        kind = "--tcp" if self.public_port else "--http"
        return (
            sys.executable,
            "-m",
            "kakuremichi.lab.targets",
            "--site",
            self.name,
            kind,
            f"{self.address}:{self.port}",
        )


SERVICES = (
    PrivateService("web-a", "site-a", "site-a", "127.0.0.1", 8080),  # on the agent's own loopback
    PrivateService("web-b", "site-b", "app-b", "192.168.2.130", 8080),  # a machine with another default route
    PrivateService("web-c", "site-c", "site-c", "10.1.0.50", 8080),  # inside the address pool
    PrivateService("echo-b", "site-b", "site-b", "127.0.0.1", 7007, public_port=7000),
)


@dataclass
class Fleet:
    """One fleet in one lab. `progress` is told what happens, for people."""

    lab: Lab
    directory: Path
    units: Units
    progress: Callable[[str], None] = lambda _text: None
    control: ControlPlane = field(init=False)
    join_tokens: dict[str, str] = field(default_factory=dict, repr=False)  # by node: those that this object made

    def __post_init__(self) -> None:
        address = self.lab.address("control")
        self.control = ControlPlane(
            Options(
                directory=self.directory / "control",
                portal_listen=f"0.0.0.0:{PORTAL_PORT}",
                portal_url=f"https://{address}:{PORTAL_PORT}",
                nats_listen=f"0.0.0.0:{NATS_PORT}",
                node_nats_url=f"tls://{address}:{NATS_PORT}",
                namespace=self.lab.namespace("control"),
                trace=True,
            )
        )

    def api(self) -> Api:
        """A client of the portal as the first administrator, with a socket inside the lab."""
        token = self.control.token_file.read_text()
        tls = client_context(self.control.ca_file)
        return Api(self.lab.address("control"), PORTAL_PORT, token, lambda: self.lab.in_namespace("control"), tls)

    def node_host(self, name: str) -> NodeHost:
        return NodeHost(name, self.lab.namespace(name), self.directory / "nodes" / name)

    async def start_control_plane(self) -> None:
        self.progress("starting PostgreSQL, NATS, registry, keyring and portal")
        self.control.prepare()
        await self.units.start_all(self.control.units())
        await self._wait("the portal", self._portal_answers)

    async def start_gateway(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """`env` is what the gateway's own process finds in its environment besides."""
        host = self._new_host(name)
        certificates = make_certificate(self.directory / "certificates")
        endpoints = (f"{self.lab.address(name)}:51820",)
        token = self._join_token("gateway", name)
        gateway = gateway_unit(host, token, endpoints, certificates)
        gateway = structs.replace(gateway, env=gateway.env | dict(env or {}))
        await self.units.start_all((engine_unit(host), holder_unit(host), gateway))

    async def start_agent(self, name: str) -> None:
        host = self._new_host(name)
        await self.units.start_all((engine_unit(host), agent_unit(host, self._join_token("agent", name))))

    async def start_nodes(self, gateways: Iterable[str] = GATEWAYS, agents: Iterable[str] = AGENTS) -> None:
        for name in gateways:
            self.progress(f"enrolling gateway {name}")
            await self.start_gateway(name)
        for name in agents:
            self.progress(f"enrolling agent {name}")
            await self.start_agent(name)
        await self.all_live([*gateways, *agents])

    async def all_live(self, names: Iterable[str]) -> None:
        """Wait until every one of these nodes has a key, reports, and has applied what its feeds say."""
        wanted = list(names)
        await self._wait(f"nodes {', '.join(wanted)}", lambda: self._all_live(wanted))

    async def start_target(self, service: PrivateService) -> None:
        await self.units.start(
            Unit(
                name=f"target-{service.name}",
                argv=service.argv,
                namespace=self.lab.namespace(service.host),
                log=str(self.directory / f"target-{service.name}.log"),
            )
        )
        await self._wait(f"private service {service.name}", lambda: self._listens(service))

    async def publish(self, services: Iterable[PrivateService] = SERVICES) -> None:
        """Start the private programs, publish them, and wait until every gateway has applied them."""
        with_names = list(services)
        for service in with_names:
            await self.start_target(service)
        with self.api() as api:
            for service in with_names:
                self.progress(f"publishing {service.name}")
                self.lab.add_name(service.host_name, *GATEWAYS)
                api.call("POST", "/services?wait=applied&timeout=10", service.body)

    def _listens(self, service: PrivateService) -> bool:
        with self.lab.in_namespace(service.host), socket.socket() as probe:
            return probe.connect_ex((service.address, service.port)) == 0

    def _new_host(self, name: str) -> NodeHost:
        host = self.node_host(name)
        host.haproxy.mkdir(mode=0o700, parents=True, exist_ok=True)
        return host

    def _join_token(self, role: str, name: str) -> str:
        with self.api() as api:
            token: str = api.post("/tokens", {"role": role, "node": name})["token"]
        self.join_tokens[name] = token
        return token

    def _portal_answers(self) -> bool:
        with self.api() as api:
            try:
                api.get("/services")
            except ApiError:
                return False
        return True

    def _all_live(self, names: list[str]) -> bool:
        with self.api() as api:
            try:
                nodes = {node["name"]: node for kind in ("gateways", "agents") for node in api.get(f"/{kind}")["items"]}
            except ApiError:
                return False
        return all(
            name in nodes
            and nodes[name]["state"] == "live"
            and nodes[name]["public_key"]
            and not nodes[name]["behind"]
            and not nodes[name]["errors"]
            for name in names
        )

    async def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        while not await asyncio.to_thread(ready):
            if time.monotonic() > deadline:
                raise FleetError(f"{what}: not ready within {READY_S:.0f} s, see the logs in {self.directory}")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def fleet_in(
    lab: Lab,
    directory: Path,
    progress: Callable[[str], None] = lambda _text: None,
    *,
    keeper_host: str | None = None,
) -> AsyncIterator[Fleet]:
    """A fleet object with its keeper, whose folder is made; leaving the block stops nothing.

    With `keeper_host` a new keeper lives on that host of the lab and ends with the lab, whoever takes it down.
    """
    async with Units(directory / "keeper", namespace=lab.namespace(keeper_host) if keeper_host else None) as units:
        yield Fleet(lab, directory, units, progress)
