"""Four namespaces, a gateway and an agent among them, and sockets that live inside.

visitor (198.51.100.10, stranger .66, 2001:db8::10) -- pub [gateway] wg -- wg [agent] lan -- lan (192.168.7.20)
A veth pair without ARP stands for the tunnel: like WireGuard's, its ends know no neighbours.
"""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, SocketKind

from kakuremichi.dataplane.nftables.device import NftTable
from kakuremichi.lab import namespaces
from support.hosts import Hosts

EVERYWHERE = "0.0.0.0"  # noqa: S104  # inside the namespaces only
VISITOR, STRANGER = "198.51.100.10", "198.51.100.66"
VISITOR6, STRANGER6 = "2001:db8::10", "2001:db8::66"
PUBLIC, PUBLIC6 = "198.51.100.1", "2001:db8::1"
AGENT, AGENT6, AGENT_B = IPv4Address("10.1.0.100"), IPv6Address("fd00:1::10.1.0.100"), "10.1.1.100"
SLOT_ADDRESS, SLOT_ADDRESS6 = "10.1.0.7", "fd00:1::a01:7"
LAN_HOST, LAN_HOST6 = "192.168.7.20", "fd00:7::20"
IPV6_TRANSPARENT = 75  # linux/in6.h
SILENCE_S = 0.4  # long enough for a packet through four namespaces of one machine

ADDRESSES = """
link add pub netns {gw} type veth peer name eth netns {visitor}
link add lan netns {agent} type veth peer name eth netns {lan}
link add wg netns {gw} address 02:00:00:00:00:01 type veth peer name wg netns {agent} address 02:00:00:00:00:01
"""
INSIDE = {
    "visitor": f"""
addr add {VISITOR}/24 dev eth
addr add {STRANGER}/24 dev eth
addr add {VISITOR6}/64 dev eth nodad
addr add {STRANGER6}/64 dev eth nodad
link set eth up
route add default via {PUBLIC}
""",
    "gw": f"""
addr add {PUBLIC}/24 dev pub
addr add {PUBLIC6}/64 dev pub nodad
addr add 192.0.2.1/32 dev wg
addr add 2001:db8:ff::1/128 dev wg nodad
link set pub up
link set wg addrgenmode none mtu 1420 arp off up
route add 10.1.0.0/24 dev wg
route add 10.1.1.0/24 dev wg
route add fd00:1::/96 dev wg
""",
    "agent": f"""
addr add {AGENT}/32 dev wg
addr add {AGENT6}/120 dev wg nodad
addr add 192.168.7.1/24 dev lan
addr add fd00:7::1/64 dev lan nodad
link set lan up
link set wg addrgenmode none mtu 1420 arp off up
route add 10.1.0.0/24 dev wg
route add 10.1.1.0/24 dev wg
route add 198.51.100.0/24 dev wg
route add local ::1/128 dev wg table local
""",
    # Its default route leads to another router, which answers nobody.
    "lan": f"""
addr add {LAN_HOST}/24 dev eth
addr add {LAN_HOST6}/64 dev eth nodad
link set eth up
route add default via 192.168.7.254
""",
}
SYSCTLS = {
    "gw": ("ipv4/ip_forward", "ipv6/conf/all/forwarding"),
    "agent": ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/wg/route_localnet"),
}


class Net(Hosts):
    """The four of them, joined."""

    def __init__(self) -> None:
        super().__init__(*INSIDE)
        self.segments: list[int] = []  # sizes that accepted connections may send

    def lay(self) -> None:
        namespaces.ip_batch(None, ADDRESSES.format(**self.names).splitlines())
        for host, lines in INSIDE.items():
            self.ip(host, lines)
        for host, keys in SYSCTLS.items():
            for key in keys:
                namespaces.write_sysctl(self.names[host], f"net/{key}", "1")

    def ip(self, host: str, commands: str) -> None:
        namespaces.ip_batch(self.names[host], commands.splitlines())

    def netns(self, host: str) -> str:
        return self.names[host]

    def nft(self, host: str) -> NftTable:
        return NftTable("kk_real", command=("ip", "netns", "exec", self.names[host], "nft"))

    def bound(
        self, host: str, kind: SocketKind, address: str, port: int = 0, *, transparent: bool = False
    ) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(AF_INET6 if ":" in address else AF_INET, kind)
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if transparent:  # takes connections to other ports too, if a rule gives it some
                made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            made.bind((address, port))
            made.setblocking(False)
            return made

        return self.inside(host, make)

    def flush_chain(self, host: str, chain: str) -> None:
        nft = ["ip", "netns", "exec", self.names[host], "nft"]
        subprocess.run([*nft, "flush", "chain", "inet", "kk_real", chain], check=True)

    def dropped(self, host: str, chain: str, rule: int | None = None) -> int:
        """Packets that the chain's drop rules, or this one, have counted."""
        listing = subprocess.run(
            ["ip", "netns", "exec", self.names[host], "nft", "-j", "list", "chain", "inet", "kk_real", chain],
            check=True,
            capture_output=True,
        )
        rules = [entry["rule"]["expr"] for entry in json.loads(listing.stdout)["nftables"] if "rule" in entry]
        chosen = rules if rule is None else [rules[rule]]
        return sum(e["counter"]["packets"] for expr in chosen for e in expr if "counter" in e)

    @asynccontextmanager
    async def tcp_server(
        self, host: str, address: str, port: int, name: str = "", *, transparent: bool = False
    ) -> AsyncIterator[list[str]]:
        """Greets with `name` and echoes lines; yields the list of its clients' addresses."""
        clients: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients.append(writer.get_extra_info("peername")[0])
            self.segments.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
            try:
                writer.write(f"{name}:{port}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
            except OSError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(
            serve, sock=self.bound(host, SOCK_STREAM, address, port, transparent=transparent)
        )
        try:
            yield clients
        finally:
            server.close()

    @asynccontextmanager
    async def udp_server(self, host: str, address: str, port: int, name: str = "") -> AsyncIterator[list[str]]:
        clients: list[str] = []

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
                clients.append(peer[0])
                self.transport.sendto(f"{name}:{port}".encode(), peer)  # type: ignore[attr-defined]

        sock = self.bound(host, SOCK_DGRAM, address, port)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=sock)
        try:
            yield clients
        finally:
            transport.close()

    @asynccontextmanager
    async def connect(
        self, host: str, source: str, to: str, port: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        sock = self.bound(host, SOCK_STREAM, source)
        writer = None
        try:
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(sock, (to, port))
                reader, writer = await asyncio.open_connection(sock=sock)
            yield reader, writer
        finally:
            if writer:
                writer.close()
            sock.close()

    async def greeting(self, host: str, source: str, to: str, port: int) -> str:
        async with self.connect(host, source, to, port) as (reader, _), asyncio.timeout(5):
            return (await reader.readline()).decode().strip()

    async def ask(self, sock: socket.socket, to: str, port: int, *, within: float = 5) -> str:
        """The answer to one datagram."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(sock, b"?", (to, port))
        async with asyncio.timeout(within):
            return (await loop.sock_recv(sock, 100)).decode()

    async def silent(self, host: str, source: str, to: str, port: int) -> bool:
        """Whether a connection gets neither an answer nor a refusal."""
        sock = self.bound(host, SOCK_STREAM, source)
        try:
            async with asyncio.timeout(SILENCE_S):
                await asyncio.get_running_loop().sock_connect(sock, (to, port))
        except TimeoutError:
            return True
        finally:
            sock.close()
        return False
