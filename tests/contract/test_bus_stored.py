"""What every bus promises of streams that are only read: nobody is acked, and what is stored comes by its number."""

import asyncio

import pytest

from contract.buses import Seen, World
from kakuremichi.bus.port import Bus, BusTimeoutError
from kakuremichi.bus.stored import AT_ONCE, StreamReader


async def test_what_is_kept_for_portals_is_stored_without_an_ack_and_read_by_its_number(world: World) -> None:
    gateway, keyring = await world.bus("gateway", "gw-1"), await world.bus("keyring")
    registry, portal, seen = await world.bus("registry"), await world.bus("portal"), Seen()
    await portal.subscribe("trace.*.*", seen)

    await gateway.publish("trace.node.gw-1", b"one", reply="reply.gw-1.here")
    await keyring.publish("trace.service.keyring", b"two")
    await registry.publish("cp.arrivals", b"three")
    await seen.wait_for(2)
    with pytest.raises(BusTimeoutError):
        await gateway.request("trace.node.gw-1", b"answer me", timeout_s=0.3)
    await seen.wait_for(3)

    assert await read(portal, "NODE_TRACES", least=2) == [b"one", b"answer me"]
    assert await read(portal, "TRACES") == [b"two"]
    assert await read(portal, "ARRIVALS") == [b"three"]
    first = await portal.stored("NODE_TRACES", 1)
    assert first is not None
    assert (first.subject, first.reply) == ("trace.node.gw-1", "")
    assert await portal.stored("NODE_TRACES", 3) is None


async def test_a_stream_is_read_in_order_and_then_only_what_has_come_since(world: World) -> None:
    registry, portal = await world.bus("registry"), await world.bus("portal")
    reader, numbers = StreamReader(portal, "ARRIVALS"), range(AT_ONCE * 2 + 5)
    for number in numbers:
        await registry.publish("cp.arrivals", b"%d" % number)
    await read(portal, "ARRIVALS", least=len(numbers))

    assert [message.data async for page in reader.pages() for message in page] == [b"%d" % each for each in numbers]
    assert [page async for page in reader.pages()] == []
    await registry.publish("cp.arrivals", b"more")
    await read(portal, "ARRIVALS", least=len(numbers) + 1)
    assert [message.data async for page in reader.pages() for message in page] == [b"more"]


async def read(bus: Bus, stream: str, *, least: int = 1) -> list[bytes]:
    """All of a stream once it has so many messages: what nobody acks may be on its way into it."""
    async with asyncio.timeout(10):
        while (await bus.stream_state(stream)).messages < least:  # noqa: ASYNC110  # a stored message has no event
            await asyncio.sleep(0.02)
    return [message.data async for page in StreamReader(bus, stream).pages() for message in page]
