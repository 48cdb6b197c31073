"""The node's WireGuard key: kept with the running interface, made anew with a new one. It never leaves memory."""

import structlog

from kakuremichi.dataplane.wireguard.device import Device
from kakuremichi.dataplane.wireguard.engine import adopt
from kakuremichi.model.keys import PrivateKey
from kakuremichi.node.announcing import make_announcement
from kakuremichi.node.state import Enrolment, NodeState

log = structlog.get_logger()


async def hold_key(
    device: Device,
    alias: str,
    state: NodeState,
    enrolment: Enrolment,
    *,
    listen_port: int,
    endpoints: tuple[str, ...] = (),
) -> bool:
    """Make the engine have the key of the announcement on disk. True if the running interface was adopted.

    The announcement is on disk before anybody hears of it, so an epoch is never used for two keys.
    """
    kept = state.announcement()
    if kept is not None and kept[1].serial == enrolment.node.serial and await adopt(device, alias, kept[1].public_key):
        if kept[1].endpoints != endpoints:
            signed = make_announcement(
                enrolment,
                state.identity(),
                kept,
                kept[1].public_key,
                boot_id=state.boot_id(),
                endpoints=endpoints,
            )
            state.save_announcement(signed)
        log.info("interface adopted", interface=device.name, epoch=kept[1].epoch)
        return True
    await make_key(device, state, enrolment, listen_port=listen_port, endpoints=endpoints)
    return False


async def make_key(
    device: Device, state: NodeState, enrolment: Enrolment, *, listen_port: int, endpoints: tuple[str, ...] = ()
) -> None:
    """Give the engine a new key and put its announcement on disk, above every epoch that was used."""
    private_key = PrivateKey.generate()
    signed = make_announcement(
        state.newest(enrolment),
        state.identity(),
        state.announcement(),
        private_key.public(),
        boot_id=state.boot_id(),
        endpoints=endpoints,
    )
    await device.configure(private_key, listen_port)
    state.save_announcement(signed)
    log.info("new key made", interface=device.name)
