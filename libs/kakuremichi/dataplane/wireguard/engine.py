"""Which engine serves an interface, whether it is ours, and whether it can be kept after a restart."""

from pathlib import Path

from kakuremichi.dataplane.links.device import LinkError
from kakuremichi.dataplane.links.interfaces import Interface, change_interface, create_interface, find_interface
from kakuremichi.dataplane.wireguard.device import Device, DeviceError
from kakuremichi.dataplane.wireguard.kernel import KernelDevice
from kakuremichi.dataplane.wireguard.userspace import UAPI_DIRECTORY, UserspaceDevice
from kakuremichi.model.ids import NodeId
from kakuremichi.model.keys import PublicKey


def link_alias(deployment: str, node: NodeId) -> str:
    """The mark on our interface: it says whose it is to us and to whoever reads `ip link`."""
    return f"kakuremichi:{deployment}:{node}"


async def open_device(name: str, alias: str, *, uapi_directory: Path = UAPI_DIRECTORY, wait_s: float = 15.0) -> Device:
    """The engine of interface `name`, marked with `alias`.

    An interface that is there decides; otherwise the kernel makes one, and where it has no WireGuard we wait up to
    `wait_s` for wireguard-go, which is a unit of its own. An interface that bears another mark, or none but is in use,
    is left alone. Raises DeviceError.
    """
    try:
        interface = await find_interface(name)
        if interface is None and await create_interface(name, "wireguard"):
            interface = await find_interface(name)
        device = await _device_of(interface, name, uapi_directory, wait_s)
        try:
            await _mark(device, alias)
        except BaseException:
            device.close()
            raise
    except LinkError as error:
        raise DeviceError(str(error)) from error
    return device


async def adopt(device: Device, alias: str, expected: PublicKey) -> bool:
    """Whether the running interface may be kept: it bears our mark and its key is that of our last announcement.

    Ask before configuring it. Raises DeviceError when the engine does not answer.
    """
    try:
        interface = await find_interface(device.name)
    except LinkError as error:
        raise DeviceError(str(error)) from error
    return interface is not None and interface.alias == alias and await device.has_key(expected)


async def old_wireguard_go(name: str) -> str | None:
    """A sentence if the interface belongs to a wireguard-go too old to move packets in batches, else None.

    Told by the tun flag IFF_VNET_HDR (0x4000 in tun_flags), because its `--version` does not grow with the releases.
    """
    interface = await find_interface(name)
    if interface is None or interface.kind != "tun" or interface.vnet_hdr:
        return None
    return (
        f"interface {name}: this wireguard-go moves one packet at a time, at about a fifth of the speed; "
        "install 0.0.20231211 or newer (bookworm-backports has it) or a kernel with WireGuard"
    )


async def _device_of(interface: Interface | None, name: str, uapi_directory: Path, wait_s: float) -> Device:
    if interface is not None and interface.kind == "wireguard":
        return KernelDevice(name)
    if interface is not None and interface.kind != "tun":
        kind = interface.kind or "hardware"
        raise DeviceError(f"interface {name}: is of kind {kind}, not WireGuard; choose another name or remove it")
    device = UserspaceDevice(name, uapi_directory)
    await device.wait(wait_s)
    return device


async def _mark(device: Device, alias: str) -> None:
    interface = await find_interface(device.name)
    if interface is None:
        raise DeviceError(f"interface {device.name}: it vanished while it was opened")
    if interface.alias == alias:
        return
    if interface.alias:
        raise DeviceError(f"interface {device.name}: it is marked {interface.alias!r}, not ours; choose another name")
    state = await device.read()
    if state.public_key is not None or state.peers:
        raise DeviceError(f"interface {device.name}: it is in use and not marked as ours; choose another name")
    await change_interface(device.name, ifalias=alias)
