"""Services and nodes of a fleet started anew with something in their environment, and as they were afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from msgspec import structs

from kakuremichi.fleet.certificates import make_certificate
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.fleet.nodes import agent_unit, gateway_unit
from kakuremichi.lab.units import Unit

AGENT = "site-a"
PROBE = "probe-of-processes"
PROBE_PORT = 7399
READY_S = 60.0

EnvOf = Callable[[Unit], Mapping[str, str]]


def services_and_nodes(fleet: Fleet) -> list[Unit]:
    """Registry, keyring, portal, the gateways and one agent as they are kept, without their used join tokens."""
    control = [unit for unit in fleet.control.units() if unit.name in ("registry", "keyring", "portal")]
    certificates = make_certificate(fleet.directory / "certificates")
    gateways = [
        gateway_unit(fleet.node_host(name), "", (f"{fleet.lab.address(name)}:51820",), certificates)
        for name in GATEWAYS
    ]
    return [*control, *gateways, agent_unit(fleet.node_host(AGENT), "")]


@asynccontextmanager
async def processes_with(fleet: Fleet, env_of: EnvOf, *, without: frozenset[str] = frozenset()) -> AsyncIterator[None]:
    """With the variables of `env_of` and none of `without`; a change reaches everybody before the block begins."""
    usual = services_and_nodes(fleet)

    def other(unit: Unit) -> Unit:
        kept = {name: value for name, value in unit.env.items() if name not in without}
        return structs.replace(unit, env=kept | dict(env_of(unit)))

    try:
        await _start(fleet, [other(unit) for unit in usual])
        yield
    finally:
        await _start(fleet, usual)


async def _start(fleet: Fleet, units: list[Unit]) -> None:
    await fleet.units.start_all(units)
    deadline = time.monotonic() + READY_S
    while not await asyncio.to_thread(_reaches_everybody, fleet):
        if time.monotonic() > deadline:
            raise RuntimeError("the fleet did not come back after its processes were started anew")
        await asyncio.sleep(0.2)


def _reaches_everybody(fleet: Fleet) -> bool:
    try:
        with fleet.api() as api:
            port = 9000 + time.monotonic_ns() % 900
            body = {"kind": "tcp", "port": PROBE_PORT, "targets": [{"agent": AGENT, "port": port}]}
            status, answer = api.call("PUT", f"/services/{PROBE}?wait=applied&timeout=5", body)
            api.delete(f"/services/{PROBE}")
    except Exception:  # noqa: BLE001  # what it asks is being started
        return False
    return status == 200 and {each["node"] for each in answer["applied"]} >= {*GATEWAYS, AGENT}
