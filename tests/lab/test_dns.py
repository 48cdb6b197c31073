"""A real name server at a site, asked by a real client: over UDP, and over TCP where an answer is too large for it."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.lab.units import Unit
from support import visits
from support.fleet import eventually, put

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]  # whoever comes first starts the fleet

PORT = 7553
HOSTS = 2000  # a zone transfer of several messages
CONFIG = f"""
server:
  rundir: "{{folder}}"
  listen: 127.0.0.1@{PORT}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "{{folder}}/db"
log:
  - target: stderr
    any: warning
acl:
  - id: anybody
    address: 0.0.0.0/0
    action: transfer
zone:
  - domain: site.test
    storage: "{{folder}}"
    file: zone
    journal-content: none
    zonefile-sync: -1
    acl: anybody
"""
LARGE = [f"{number:02} {'x' * 200}" for number in range(20)]


def zone() -> str:
    hosts = (f"h{number} A 192.0.2.{number % 250}" for number in range(HOSTS))
    texts = (f'large TXT "{text}"' for text in LARGE)
    return "\n".join(["$ORIGIN site.test.", "$TTL 60", "@ SOA ns admin 1 60 60 60 60", "@ NS h1", *hosts, *texts, ""])


@pytest.fixture(autouse=True)
async def knot(fleet: Fleet, tmp_path: Path) -> AsyncIterator[None]:
    """Knot on the loopback of site-a."""
    (tmp_path / "db").mkdir()
    (tmp_path / "zone").write_text(zone())
    config = tmp_path / "knot.conf"
    config.write_text(CONFIG.format(folder=tmp_path))
    argv = ("/usr/sbin/knotd", "--config", str(config))
    log = str(fleet.directory / "knot.log")
    await fleet.units.start(Unit(name="knot", argv=argv, namespace=fleet.lab.namespace("site-a"), log=log))
    await eventually(lambda: visits.outcome(fleet.lab, "site-a", "127.0.0.1", PORT) == "open")
    await eventually(lambda: answers(fleet, "site-a", "127.0.0.1", "h1", "A") == ["192.0.2.1"])
    yield
    await fleet.units.stop("knot")


def publish(fleet: Fleet, kind: str, name: str) -> None:
    put(fleet, name, kind=kind, port=PORT, targets=[{"agent": "site-a", "port": PORT}])


def kdig(fleet: Fleet, source: str, address: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return fleet.lab.run(source, ["kdig", f"@{address}", "-p", str(PORT), "+timeout=3", "+retry=2", *words], timeout=30)


def answers(fleet: Fleet, source: str, address: str, name: str, kind: str, *words: str) -> list[str]:
    printed = kdig(fleet, source, address, *words, "+short", f"{name}.site.test", kind).stdout
    return [line for line in printed.splitlines() if line]


async def test_everybody_is_answered_through_every_gateway_many_at_a_time(fleet: Fleet) -> None:
    publish(fleet, "udp", "dns")
    batch = [word for number in range(20) for word in (f"h{number}.site.test", "A", "+short")]

    for gateway in GATEWAYS:
        for source in ("visitor", "office", "stranger"):
            said = kdig(fleet, source, fleet.lab.address(gateway), *batch).stdout.split()
            assert said == [f"192.0.2.{number}" for number in range(20)], (gateway, source)


async def test_an_answer_too_large_for_a_datagram_comes_by_tcp(fleet: Fleet) -> None:
    publish(fleet, "udp", "dns")
    gateway = fleet.lab.address("gw1")

    cut = kdig(fleet, "visitor", gateway, "+noedns", "+ignore", "large.site.test", "TXT").stdout
    assert "Flags: qr aa tc" in cut
    assert answers(fleet, "visitor", gateway, "large", "TXT", "+noedns") == []  # no TCP port is published
    publish(fleet, "tcp", "dns-tcp")
    assert sorted(answers(fleet, "visitor", gateway, "large", "TXT", "+noedns")) == [f'"{text}"' for text in LARGE]


async def test_a_whole_zone_is_transferred_by_tcp(fleet: Fleet) -> None:
    publish(fleet, "tcp", "dns-tcp")

    transferred = kdig(fleet, "office", fleet.lab.address("gw2"), "site.test", "AXFR").stdout

    assert sum(" A " in " ".join(line.split()) for line in transferred.splitlines()) == HOSTS
