"""Interfaces as a whole, through pyroute2: find, make, change and remove one by its name."""

import errno
from dataclasses import dataclass
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError as Pyroute2Error

from kakuremichi.dataplane.links.device import LinkError

_IFF_UP = 1
_NAME_BYTES = 15


@dataclass(frozen=True, slots=True)
class Interface:
    """`kind` is the kernel's (`wireguard`, `tun`, …; empty for hardware). `vnet_hdr` is known of tun devices only."""

    index: int
    name: str
    kind: str
    alias: str
    mtu: int
    up: bool
    vnet_hdr: bool | None = None


def check_interface_name(name: str) -> str:
    """The name if the kernel takes it. Raises LinkError."""
    if (
        not (0 < len(name.encode()) <= _NAME_BYTES)
        or name in {".", ".."}
        or any(c in "/:" or c.isspace() for c in name)
    ):
        raise LinkError(f"interface name {name!r}: 1 to {_NAME_BYTES} bytes without '/', ':' or spaces are needed")
    return name


async def find_interface(name: str) -> Interface | None:
    """The interface of that name in this network namespace, None if there is none."""
    async with AsyncIPRoute() as route:
        try:
            (link,) = await route.link("get", ifname=check_interface_name(name))
        except Pyroute2Error as error:
            if error.code == errno.ENODEV:
                return None
            raise LinkError(f"interface {name}: {error}") from error
    return _interface_of(link)


async def create_interface(name: str, kind: str) -> bool:
    """Have it made; False if this kernel knows no such kind. Raises LinkError for any other refusal.

    One of that name that appeared in the meantime, of whatever kind, counts as made: look at it again.
    """
    async with AsyncIPRoute() as route:
        try:
            await route.link("add", ifname=check_interface_name(name), kind=kind)
        except Pyroute2Error as error:
            if error.code in (errno.EOPNOTSUPP, errno.EEXIST):
                return bool(error.code == errno.EEXIST)
            raise LinkError(f"interface {name}: making it as {kind} failed: {error}") from error
    return True


async def change_interface(name: str, **changes: str | int) -> None:
    """Set `ifalias`, `mtu` or `state` ("up", "down"). Raises LinkError."""
    async with AsyncIPRoute() as route:
        try:
            (link,) = await route.link("get", ifname=check_interface_name(name))
            await route.link("set", index=link["index"], **changes)
        except Pyroute2Error as error:
            told = ", ".join(f"{key} {value}" for key, value in changes.items())
            raise LinkError(f"interface {name}: setting {told} failed: {error}") from error


async def remove_interface(name: str) -> None:
    """Remove it; one that is gone already is no error. Raises LinkError."""
    async with AsyncIPRoute() as route:
        try:
            (link,) = await route.link("get", ifname=check_interface_name(name))
            await route.link("del", index=link["index"])
        except Pyroute2Error as error:
            if error.code != errno.ENODEV:
                raise LinkError(f"interface {name}: removing it failed: {error}") from error


def _interface_of(link: Any) -> Interface:
    vnet_hdr = link.get(("linkinfo", "data", "tun_vnet_hdr"))
    return Interface(
        index=link["index"],
        name=link.get("ifname"),
        kind=link.get(("linkinfo", "kind")) or "",
        alias=link.get("ifalias") or "",
        mtu=link.get("mtu") or 0,
        up=bool(link["flags"] & _IFF_UP),
        vnet_hdr=None if vnet_hdr is None else bool(vnet_hdr),
    )
