"""Two network namespaces joined by one cable, for what the kernel does with a single packet."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, TypeVar

from kakuremichi.lab import namespaces
from support.hosts import Hosts

T = TypeVar("T")
HERE, THERE, PORT = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 9000
SILENCE_S = 0.3


class Pair(Hosts):
    """Here and there."""

    def __init__(self) -> None:
        super().__init__("here", "there")

    def lay(self) -> None:
        here, there = self.names.values()
        namespaces.ip_batch(None, [f"link add eth0 netns {here} type veth peer name eth0 netns {there}"])
        for name, address in ((here, HERE), (there, THERE)):
            namespaces.ip_batch(name, [f"addr add {address}/24 dev eth0", "link set eth0 up"])

    def load(self, script: str) -> None:
        namespaces.nft(self.names["here"], f"flush ruleset\n{script}")

    def add(self, script: str) -> None:
        namespaces.nft(self.names["here"], script)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """In an event loop of its own, in a thread that is in the namespace."""
        return self.inside("here", lambda: asyncio.run(work()))

    def arrives(self) -> bool:
        """Whether a datagram from there reaches the port here."""

        def bound(side: str, port: int) -> socket.socket:
            def make() -> socket.socket:
                made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                made.bind((str(HERE if side == "here" else THERE), port))
                return made

            return self.inside(side, make)

        with bound("here", PORT) as server, bound("there", 0) as client:
            server.settimeout(SILENCE_S)
            client.sendto(b"?", (str(HERE), PORT))
            with suppress(TimeoutError):
                return server.recv(10) == b"?"
        return False
