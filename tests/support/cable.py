"""Two network namespaces joined by one cable, for what the kernel does with a single packet."""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, TypeVar

from kakuremichi.lab import namespaces

T = TypeVar("T")
HERE, THERE, PORT = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 9000
SILENCE_S = 0.3


class Pair:
    """Two namespaces joined by one cable."""

    def __init__(self) -> None:
        prefix = f"kkc-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.names = {side: f"{prefix}-{side}" for side in ("here", "there")}

    def up(self) -> None:
        here, there = self.names.values()
        for name in (here, there):
            namespaces.ip_batch(None, [f"netns add {name}"])
        cable = f"link add eth0 netns {here} type veth peer name eth0 netns {there}"
        namespaces.ip_batch(None, [cable])
        for name, address in ((here, HERE), (there, THERE)):
            namespaces.ip_batch(name, ["link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"])

    def down(self) -> None:
        namespaces.ip_batch(None, [f"netns delete {name}" for name in self.names.values()], force=True)

    def load(self, script: str) -> None:
        namespaces.nft(self.names["here"], f"flush ruleset\n{script}")

    def add(self, script: str) -> None:
        namespaces.nft(self.names["here"], script)

    def inside(self, action: Callable[[], T], side: str = "here") -> T:
        def entered() -> T:
            with namespaces.in_namespace(self.names[side]):
                return action()

        with ThreadPoolExecutor(1) as threads:
            return threads.submit(entered).result()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """In an event loop of its own, in a thread that is in the namespace."""
        return self.inside(lambda: asyncio.run(work()))

    def arrives(self) -> bool:
        """Whether a datagram from there reaches the port here."""

        def bound(side: str, port: int) -> socket.socket:
            def make() -> socket.socket:
                made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                made.bind((str(HERE if side == "here" else THERE), port))
                return made

            return self.inside(make, side)

        with bound("here", PORT) as server, bound("there", 0) as client:
            server.settimeout(SILENCE_S)
            client.sendto(b"?", (str(HERE), PORT))
            with suppress(TimeoutError):
                return server.recv(10) == b"?"
        return False
