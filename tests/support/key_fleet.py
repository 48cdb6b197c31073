"""One fleet in the lab for the tests of keys: who rotates is not who is revoked, so the order does not matter."""

import asyncio
import http.client
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kakuremichi.fleet.lab_fleet import PrivateService, fleet_in
from kakuremichi.fleet.visitor import connect, fetch
from kakuremichi.lab.internet import Lab


@contextmanager
def running_fleet() -> Iterator[tuple[Lab, Path]]:
    """Three gateways, three agents and their services."""
    lab, directory = Lab(f"y{os.getpid()}-"), Path(tempfile.mkdtemp(prefix="kk-y-"))
    lab.up(fresh=True, bound=True)
    try:
        asyncio.run(_begin(lab, directory))
        yield lab, directory
    finally:
        asyncio.run(_end(lab, directory))
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)


async def _begin(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.start_control_plane()
        await fleet.start_nodes()
        await fleet.publish()


async def _end(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.units.down()


@dataclass
class Load:
    """Requests of new connections at a steady rate through one gateway. `answered` are (begin, milliseconds)."""

    lab: Lab
    service: PrivateService
    gateway: str
    rate: float
    answered: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        began, number, requests = time.monotonic(), 0, []
        while not self._stop.wait(max(0.0, began + number / self.rate - time.monotonic())):
            number += 1
            request = threading.Thread(target=self._one)
            request.start()
            requests.append(request)
        for request in requests:
            request.join()

    def _one(self) -> None:
        began = time.monotonic()
        done = fetch(self.lab, self.service, self.gateway)
        if done.ok:
            self.answered.append((began, done.ms))
        else:
            self.failed.append(done.error)

    def slowest(self, since: float, until: float) -> float:
        return max(ms for at, ms in self.answered if since <= at < until)


@contextmanager
def load(lab: Lab, service: PrivateService, gateways: tuple[str, ...], rate: float) -> Iterator[list[Load]]:
    """`rate` a second through all gateways together; ended and awaited when the block ends."""
    loads = [Load(lab, service, gateway, rate / len(gateways)) for gateway in gateways]
    threads = [threading.Thread(target=each.run) for each in loads]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        for each in loads:
            each._stop.set()
        for thread in threads:
            thread.join()


def open_request(lab: Lab, service: PrivateService, gateway: str, path: str) -> http.client.HTTPConnection:
    """An HTTP request that is under way: sent, and not answered to its end."""
    connection = http.client.HTTPConnection(service.host_name, timeout=20)
    connection.sock = connect(lab, lab.address(gateway), 80)
    connection.request("GET", path)
    return connection
