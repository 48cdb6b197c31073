"""The kernel's WireGuard through generic netlink.

pyroute2's own WireGuard client sends one peer per request, decodes the private key into every answer and takes whatever
arrives next for its acknowledgement; so the messages are packed in genl.py and travel over our own socket.
"""

import asyncio
from collections.abc import Sequence

from kakuremichi.dataplane.links.netlink import (
    NETLINK_GENERIC,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute,
    attributes,
)
from kakuremichi.dataplane.wireguard import genl
from kakuremichi.dataplane.wireguard.device import DeviceError, DeviceState, Outcome, apply_in_batches
from kakuremichi.dataplane.wireguard.diff import Step
from kakuremichi.model.keys import PrivateKey, PublicKey

_GENL_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GENL_HEADER = bytes([_GET_FAMILY, 1, 0, 0])
_BATCH = 250


class KernelDevice:
    """One interface of the kernel's kind `wireguard` in this network namespace. Needs CAP_NET_ADMIN."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._netlink = NetlinkSocket(NETLINK_GENERIC)
        self._family: int | None = None

    def close(self) -> None:
        self._netlink.close()

    async def read(self) -> DeviceState:
        dump = genl.DeviceDump()
        try:
            for answer in await self._netlink.dump(await self._known_family(), genl.get_body(self.name)):
                dump.add(answer.body)
                await asyncio.sleep(0)
        except NetlinkError as error:
            raise self._error(error) from error
        return DeviceState(dump.public_key, dump.listen_port, dump.peers)

    async def has_key(self, public_key: PublicKey) -> bool:
        return (await self.read()).public_key == public_key

    async def configure(self, private_key: PrivateKey, listen_port: int | None) -> None:
        await self._perform([genl.configure_request(await self._known_family(), self.name, private_key, listen_port)])

    async def apply(self, steps: Sequence[Step]) -> tuple[Outcome, ...]:
        return await apply_in_batches([steps[at : at + _BATCH] for at in range(0, len(steps), _BATCH)], self._send)

    async def _send(self, steps: Sequence[Step]) -> None:
        await self._perform(genl.set_requests(await self._known_family(), self.name, steps))

    async def _perform(self, requests: Sequence[Request]) -> None:
        for error in await self._netlink.send(requests):
            if error is not None:
                raise self._error(error) from error

    async def _known_family(self) -> int:
        if self._family is None:
            self._family = await _family_of(self._netlink)
        if self._family is None:
            raise DeviceError(f"interface {self.name}: this kernel has no WireGuard (module wireguard)")
        return self._family

    def _error(self, error: NetlinkError) -> DeviceError:
        return DeviceError(f"interface {self.name}: {error.strerror}")


async def kernel_has_wireguard() -> bool:
    """Whether this kernel speaks WireGuard; asking loads the module where it is installed."""
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        return await _family_of(netlink) is not None


async def _family_of(netlink: NetlinkSocket) -> int | None:
    try:
        answers = await netlink.ask(
            Request(_GENL_CONTROLLER, 0, _GENL_HEADER + attribute(_FAMILY_NAME, b"wireguard\0"))
        )
    except NetlinkError:
        return None
    for answer in answers:
        for kind, payload in attributes(answer.body, len(_GENL_HEADER)):
            if kind == _FAMILY_ID:
                return int.from_bytes(payload, "little")
    return None
