"""Random changes: after each batch every node really is as the registry says, and nothing stale comes back."""

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, NATS_PORT, Fleet
from support import replay, truth
from support.fleet import drop, get, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

CHANGES, BATCH, SEED = 60, 6, 20
NAMES = tuple(f"r{number}" for number in range(8))
TARGETS = (
    {"agent": "site-a", "address": "127.0.0.1", "port": 8080},
    {"agent": "site-b", "address": "192.168.2.130", "port": 8080},
    {"agent": "site-b", "address": "127.0.0.1", "port": 7007},
    {"agent": "site-c", "address": "10.1.0.50", "port": 8080},
)
SOURCES: tuple[list[str], ...] = ([], [], ["198.51.100.20/32"], ["198.51.100.0/24", "203.0.113.7/32"])


def random_body(choose: random.Random, name: str) -> dict[str, Any]:
    """HTTP, TCP or UDP, one port or a range; each name has a host and ports of its own, so that none collides."""
    number = NAMES.index(name)
    target = dict(choose.choice(TARGETS))
    kind = choose.choice(("http", "http", "tcp", "tcp", "udp"))
    if kind == "http":
        return {"kind": kind, "host": f"{name}-{choose.randrange(3)}.lab.test", "targets": [target]}
    port = 12000 + number * 100 + choose.randrange(50)
    body: dict[str, Any] = {"kind": kind, "port": port, "sources": choose.choice(SOURCES), "targets": [target]}
    if choose.random() < 0.3:
        body["last_port"] = port + choose.randrange(1, 20)
        target["port"] = port  # a range keeps its numbers
    return body


def changes(choose: random.Random, count: int) -> Iterator[tuple[str, dict[str, Any] | None]]:
    published: set[str] = set()
    for _ in range(count):
        name = choose.choice(NAMES)
        if name in published and choose.random() < 0.35:
            published.discard(name)
            yield name, None
        else:
            published.add(name)
            yield name, random_body(choose, name)


@pytest.mark.timeout(120)
async def test_after_random_changes_every_node_really_is_as_the_registry_says(fleet: Fleet) -> None:
    stream = list(changes(random.Random(SEED), CHANGES))
    for start in range(0, CHANGES, BATCH):
        with fleet.api() as api:
            for name, body in stream[start : start + BATCH]:
                if body is None:
                    api.delete(f"/services/{name}")
                else:
                    api.call("PUT", f"/services/{name}", body)
        await truth.settled(fleet)
        wanted = dict(stream[: start + BATCH])
        known = {service["name"] for service in get(fleet, "/services")["items"]}
        assert {name for name in known if name in NAMES} == {name for name, body in wanted.items() if body}


async def test_nothing_stale_that_is_sent_again_takes_a_gateway_back(fleet: Fleet) -> None:
    """Signed items of yesterday are still signed: whoever replays them from another connection changes nothing."""
    for host in ("old", "older"):
        put(fleet, "turned", kind="http", host=f"{host}.lab.test")
    put(fleet, "turned", kind="tcp", port=7801, targets=[{"agent": "site-c", "address": "10.1.0.50", "port": 8080}])
    put(fleet, "gone", kind="tcp", port=7802)
    drop(fleet, "/services/gone")
    before = await truth.fingerprint(fleet)

    sent = replay_stored_feeds(fleet)

    assert sent > 8
    put(fleet, "marker", kind="http", host="marker.lab.test")  # applied after everything that was replayed
    drop(fleet, "/services/marker")
    assert await truth.fingerprint(fleet) == before
    gateways = get(fleet, "/gateways")["items"]
    assert [(each["behind"], each["errors"], each["warnings"]) for each in gateways] == [(0, [], [])] * len(GATEWAYS)


def replay_stored_feeds(fleet: Fleet) -> int:
    """Send every item that the stream FEED still has once more, as the registry's user. Returns how many."""
    url = f"tls://{fleet.lab.address('control')}:{NATS_PORT}"
    credentials, ca = fleet.control.bus_credentials("registry"), str(fleet.control.ca_file)
    done = fleet.lab.run("control", [sys.executable, replay.__file__, url, credentials, ca])
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])
