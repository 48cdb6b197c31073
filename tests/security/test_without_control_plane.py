"""With the control plane stopped: rebooted machines come back by themselves, and nobody else gets in."""

import asyncio
import http.client
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kakuremichi.fleet.lab_fleet import AGENTS, SERVICES, Fleet, fleet_in
from kakuremichi.fleet.visitor import fetch
from kakuremichi.lab.internet import Lab
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.state import NodeState
from kakuremichi.wire.codec import decode, encode
from kakuremichi.wire.direct import PATH, Exchange
from kakuremichi.wire.identity import Announcement
from kakuremichi.wire.signing import Signed
from support.reboot import power_off, power_on, stop_control_plane

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

GATEWAYS = ("gw1", "gw2")
BACK_WITHIN_S = 30.0
WEB_A, ECHO_B = SERVICES[0], SERVICES[3]


@pytest.fixture(scope="module")
def fleet_place() -> Iterator[tuple[Lab, Path]]:
    """Two gateways, three agents, a web site and an echo. The last agent is removed again, then all but nodes stop."""
    lab, directory = Lab(f"w{os.getpid()}-"), Path(tempfile.mkdtemp(prefix="kk-w-"))
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
        await fleet.start_nodes(GATEWAYS, AGENTS)
        for service in (WEB_A, ECHO_B):
            await fleet.start_target(service)
            api = fleet.api()
            api.call("POST", "/services?wait=applied&timeout=25", service.body)
            api.close()
        await back(fleet, GATEWAYS)
        api = fleet.api()
        api.call("DELETE", "/agents/site-c?wait=applied&timeout=25")
        api.close()
        await stop_control_plane(fleet)


async def _end(lab: Lab, directory: Path) -> None:
    async with fleet_in(lab, directory) as fleet:
        await fleet.units.down()


@pytest.fixture
async def fleet(fleet_place: tuple[Lab, Path]) -> AsyncIterator[Fleet]:
    async with fleet_in(*fleet_place) as fleet:
        yield fleet
        fleet.lab.heal()


async def back(fleet: Fleet, gateways: Iterable[str], within_s: float = BACK_WITHIN_S) -> float:
    """Seconds until both services are reached through all of these gateways; fails after `within_s`."""
    began = time.monotonic()
    left = [(service, name) for service in (WEB_A, ECHO_B) for name in gateways]
    while left:
        tried = await asyncio.gather(*(asyncio.to_thread(fetch, fleet.lab, *one) for one in left))
        left = [one for one, result in zip(left, tried, strict=True) if not result.ok]
        assert not left or time.monotonic() - began < within_s, [result for result in tried if not result.ok]
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def state(fleet: Fleet, name: str) -> NodeState:
    return NodeState(fleet.node_host(name).directory / "state")


def said_by(fleet: Fleet, name: str) -> Exchange:
    """What the node says of itself."""
    enrolment, kept = state(fleet, name).enrolment(), state(fleet, name).announcement()
    assert enrolment is not None
    assert kept is not None
    return Exchange(certificate=enrolment.answer.certificate, announcement=kept[0])


def with_new_key(fleet: Fleet, name: str) -> Exchange:
    """What a thief of the node's disk could say: a newer epoch with a key of his own."""
    here = state(fleet, name)
    enrolment, kept = here.enrolment(), here.announcement()
    assert enrolment is not None
    key = PrivateKey.generate().public()
    signed = make_announcement(enrolment, here.identity(), kept, key, boot_id=bytes(16), endpoints=())
    return Exchange(certificate=enrolment.answer.certificate, announcement=signed)


def tell(fleet: Fleet, gateway: str, body: bytes, *, host: str = "stranger") -> tuple[int, bytes]:
    """(status, body) of the gateway's answer to whoever posts from `host`."""
    address = fleet.lab.address(gateway)
    connection = http.client.HTTPConnection(address, timeout=10)
    with fleet.lab.in_namespace(host):
        connection.connect()
    try:
        connection.request("POST", PATH, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "names",
    [("gw1",), ("site-a",), ("gw2", "site-b"), ("gw1", "gw2", "site-a", "site-b")],
    ids=["gateway", "agent", "both", "everything"],
)
async def test_what_was_rebooted_carries_traffic_within_thirty_seconds(
    fleet: Fleet, names: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    before = {name: said_by(fleet, name).announcement for name in names}
    await power_off(fleet, names)

    await power_on(fleet, names)

    record_property("traffic_after_s", await back(fleet, GATEWAYS))
    for name in names:  # nobody kept a private key: each came back with another one, of a newer epoch
        old, new = (decode(signed.body, Announcement) for signed in (before[name], said_by(fleet, name).announcement))
        assert new.public_key != old.public_key
        assert new.epoch > old.epoch


async def test_what_came_directly_outlives_the_next_restart(fleet: Fleet) -> None:
    await power_off(fleet, ["site-a"])
    await power_on(fleet, ["site-a"])
    await back(fleet, GATEWAYS)

    await fleet.units.restart("gw1")  # the interface lives on, the model is built anew from the disk
    await asyncio.sleep(5)

    await back(fleet, GATEWAYS, within_s=5)
    kept = (state(fleet, "gw1").directory / "direct").read_bytes()
    assert said_by(fleet, "site-a").announcement.body in kept


async def test_an_agent_that_lost_what_came_directly_asks_again(fleet: Fleet) -> None:
    """It still knows the newest epoch, so it does not go back to the key that its feed has."""
    await power_off(fleet, ["gw1"])
    await power_on(fleet, ["gw1"])
    await back(fleet, GATEWAYS)
    await power_off(fleet, ["site-a"])
    (state(fleet, "site-a").directory / "direct").unlink()

    await power_on(fleet, ["site-a"])

    await back(fleet, GATEWAYS)


async def test_an_old_announcement_is_refused_and_changes_nothing(fleet: Fleet) -> None:
    old = said_by(fleet, "site-b")
    await power_off(fleet, ["site-b"])
    await power_on(fleet, ["site-b"])
    await back(fleet, GATEWAYS)

    status, text = tell(fleet, "gw1", encode(old), host="office")

    assert (status, b"does not follow" in text) == (403, True), text
    await back(fleet, GATEWAYS, within_s=5)


async def test_who_was_removed_does_not_come_back_with_a_newer_key(fleet: Fleet) -> None:
    for gateway in GATEWAYS:
        status, text = tell(fleet, gateway, encode(with_new_key(fleet, "site-c")), host="visitor")
        assert (status, b"site-c" in text) == (403, True), text


async def test_a_gateway_does_not_take_itself_or_a_stranger_for_an_agent(fleet: Fleet) -> None:
    good = said_by(fleet, "site-b")
    altered = Signed(good.announcement.body, said_by(fleet, "site-a").announcement.signatures)

    for said in (said_by(fleet, "gw2"), Exchange(certificate=good.certificate, announcement=altered)):
        assert tell(fleet, "gw2", encode(said), host="office")[0] == 403


async def test_a_flood_is_limited_and_visitors_notice_nothing(fleet: Fleet) -> None:
    body = bytes(16000)
    seen = [tell(fleet, "gw2", body)[0] for _ in range(300)]

    assert seen == [400] * 5 + [429] * 295
    await back(fleet, GATEWAYS, within_s=5)


async def test_a_gateway_of_which_only_the_path_is_cut_is_asked_in_vain_and_used_again(fleet: Fleet) -> None:
    """Nothing changes by an outage: the same keys meet again."""
    before = said_by(fleet, "gw1")
    fleet.lab.partition("site-a", "gw1")
    await asyncio.sleep(20)

    fleet.lab.heal()

    await back(fleet, GATEWAYS, within_s=15)
    assert said_by(fleet, "gw1") == before


async def test_the_control_plane_finds_all_as_it_became(fleet: Fleet) -> None:
    """The outage ends for a while: it learns the new keys, and what was kept beside the feeds goes."""
    await power_off(fleet, ["gw1", "site-a"])
    await power_on(fleet, ["gw1", "site-a"])
    await back(fleet, GATEWAYS)

    await fleet.start_control_plane()
    try:
        wanted = {
            name: decode(said_by(fleet, name).announcement.body, Announcement).epoch for name in ("gw1", "site-a")
        }
        deadline = time.monotonic() + 90
        while await asyncio.to_thread(_known_epochs, fleet) != wanted:
            assert time.monotonic() < deadline, await asyncio.to_thread(_known_epochs, fleet)
            await asyncio.sleep(0.5)

        await back(fleet, GATEWAYS, within_s=5)
    finally:
        await stop_control_plane(fleet)


def _known_epochs(fleet: Fleet) -> dict[str, int]:
    api = fleet.api()
    try:
        nodes = [node for kind in ("gateways", "agents") for node in api.get(f"/{kind}")["items"]]
    finally:
        api.close()
    return {node["name"]: node["epoch"] for node in nodes if node["name"] in {"gw1", "site-a"}}
