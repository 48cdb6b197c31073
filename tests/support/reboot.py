"""Machines of a lab that lose their power: everything that lived in memory is gone, the disks stay."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from kakuremichi.dataplane.nftables.device import TABLE_NAME
from kakuremichi.fleet.lab_fleet import GATEWAYS, Fleet
from kakuremichi.fleet.nodes import agent_unit, engine_unit, gateway_unit, holder_unit
from kakuremichi.lab import namespaces
from kakuremichi.lab.units import Unit

CONTROL_PLANE = ("portal", "keyring", "registry", "provisioner", "nats", "postgres")


def node_units(fleet: Fleet, name: str) -> tuple[Unit, ...]:
    """The programs of an enrolled node, in the order of their start."""
    host = fleet.node_host(name)
    if name not in GATEWAYS:
        return engine_unit(host), agent_unit(host, "")
    crt_list = fleet.directory / "certificates" / "crt-list"
    return (
        engine_unit(host),
        holder_unit(host),
        gateway_unit(host, "", (f"{fleet.lab.address(name)}:51820",), crt_list),
    )


async def stop_control_plane(fleet: Fleet) -> None:
    for name in CONTROL_PLANE:
        await fleet.units.stop(name)


async def power_off(fleet: Fleet, names: Iterable[str]) -> None:
    """kill -9 to all programs of these nodes; interface, routes, nft table and connections vanish with the machine."""
    for name in names:
        units = await fleet.units.status()
        for unit in node_units(fleet, name):
            with suppress(ProcessLookupError, TypeError):
                os.kill(units[unit.name].pid, signal.SIGKILL)  # type: ignore[arg-type]  # None: it is not running
            await fleet.units.stop(unit.name)
        namespace = fleet.lab.namespace(name)
        namespaces.nft(namespace, f"add table inet {TABLE_NAME}\ndelete table inet {TABLE_NAME}\n")
        namespaces.ip_batch(namespace, [f"link delete {fleet.node_host(name).interface}"], force=True)


async def power_on(fleet: Fleet, names: Iterable[str]) -> None:
    for name in names:
        await fleet.units.start_all(node_units(fleet, name))
