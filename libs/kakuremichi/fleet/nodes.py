"""Gateways and agents as units: the node itself, its WireGuard engine where the kernel has none, HAProxy's parent."""

import sys
from dataclasses import dataclass
from pathlib import Path

from kakuremichi.lab.programs import find_wireguard_go
from kakuremichi.lab.units import Unit
from kakuremichi.runtime.files import write_atomically

DOORS = ("80=0.0.0.0:80", "443=0.0.0.0:443", "TCP=0.0.0.0:15080")
DOORS6 = ("80V6=[::]:80", "443V6=[::]:443", "TCP6=[::]:15080,transparent")


@dataclass(frozen=True, slots=True)
class NodeHost:
    """Where a node runs: its name, network namespace and folder. The namespace's name is the interface's too, as
    wireguard-go keeps its sockets in one folder for the whole machine, by the interface's name.
    """

    name: str
    namespace: str
    directory: Path

    @property
    def interface(self) -> str:
        return self.namespace

    @property
    def haproxy(self) -> Path:
        return self.directory / "haproxy"

    def log(self, name: str) -> str:
        return str(self.directory / f"{name}.log")


def engine_unit(host: NodeHost) -> Unit:
    """wireguard-go in a process of its own: it outlives the node's, and with it the tunnels."""
    return Unit(
        name=f"wg-{host.name}",
        argv=(str(find_wireguard_go()), "-f", host.interface),
        namespace=host.namespace,
        env={"LOG_LEVEL": "error"},
        log=host.log("wireguard-go"),
    )


def holder_unit(host: NodeHost) -> Unit:
    doors = (*DOORS, *DOORS6) if Path("/proc/net/if_inet6").exists() else DOORS
    binds = [word for door in doors for word in ("--bind", door)]
    return Unit(
        name=f"haproxy-{host.name}",
        argv=(sys.executable, "-m", "kakuremichi.dataplane.haproxy.holder", "--dir", str(host.haproxy), *binds),
        namespace=host.namespace,
        log=host.log("holder"),
    )


def gateway_unit(host: NodeHost, token: str, endpoints: tuple[str, ...], certificates: Path | None) -> Unit:
    argv = [sys.executable, "-m", "kakuremichi_gateway", "--haproxy-dir", str(host.haproxy)]
    argv += [word for endpoint in endpoints for word in ("--endpoint", endpoint)]
    argv += ["--certificates", str(certificates)] if certificates else []
    return _node_unit(host, "gateway", tuple(argv), token)


def agent_unit(host: NodeHost, token: str) -> Unit:
    return _node_unit(host, "agent", (sys.executable, "-m", "kakuremichi_agent"), token)


def _node_unit(host: NodeHost, role: str, argv: tuple[str, ...], token: str) -> Unit:
    # In a file: `ps e` shows environments, and the keeper writes them to its disk.
    token_file = host.directory / "join-token"
    if token:
        write_atomically(token_file, token.encode())
    return Unit(
        name=host.name,
        argv=(*argv, "--state", str(host.directory / "state"), "--interface", host.interface),
        namespace=host.namespace,
        env={
            "KAKUREMICHI_JOIN_TOKEN_FILE": str(token_file),
            "KAKUREMICHI_TRACE_FILE": str(host.directory / f"{role}.trace"),
        },
        log=host.log(role),
    )
