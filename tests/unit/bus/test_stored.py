"""Reading a stream that changes meanwhile: what is gone is left out, and nothing is taken for what it was before."""

import pytest

from kakuremichi.bus.memory import MemoryBus, MemoryNats
from kakuremichi.bus.port import BusError
from kakuremichi.bus.stored import AT_ONCE, StreamReader


async def fill(bus: MemoryBus, *texts: str) -> None:
    for text in texts:
        await bus.publish("cp.arrivals", text.encode())


async def rest(reader: StreamReader) -> list[str]:
    return [message.data.decode() async for page in reader.pages() for message in page]


@pytest.fixture
def nats() -> MemoryNats:
    return MemoryNats()


async def test_holes_are_left_out(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, *"abcdef")
    del nats.streams["ARRIVALS"].stored[1], nats.streams["ARRIVALS"].stored[4]
    assert await rest(StreamReader(bus, "ARRIVALS")) == ["b", "c", "e", "f"]


async def test_a_purge_between_two_pages_ends_the_reading_and_loses_nothing_that_comes_later(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, *map(str, range(AT_ONCE + 10)))
    reader, found = StreamReader(bus, "ARRIVALS"), list[str]()
    async for page in reader.pages():
        found += [message.data.decode() for message in page]
        nats.streams["ARRIVALS"].stored.clear()
    assert found == [str(number) for number in range(AT_ONCE)]
    await fill(bus, "later")
    assert await rest(reader) == ["later"]


async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, "old", "older")
    reader = StreamReader(bus, "ARRIVALS")
    await rest(reader)
    nats.recreate("ARRIVALS")
    await fill(bus, "new", "newer", "newest")
    assert await rest(reader) == ["new", "newer", "newest"]


async def test_a_stream_that_was_brought_back_to_an_earlier_state_is_read_from_its_beginning(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, "one", "two", "three")
    reader = StreamReader(bus, "ARRIVALS")
    await rest(reader)
    stream = nats.streams["ARRIVALS"]
    del stream.stored[3], stream.stored[2]
    stream.last_seq = 1
    assert await rest(reader) == ["one"]
    await fill(bus, "other two")
    assert await rest(reader) == ["other two"]


async def test_what_was_not_looked_at_is_read_again(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, "one", "two")
    reader = StreamReader(bus, "ARRIVALS")
    async for _ in reader.pages():
        break
    assert await rest(reader) == ["one", "two"]


async def test_a_stream_without_a_leader_is_an_error_and_is_read_later(nats: MemoryNats) -> None:
    bus = nats.connect()
    await fill(bus, "one")
    reader = StreamReader(bus, "ARRIVALS")
    nats.streams["ARRIVALS"].leaderless = True
    with pytest.raises(BusError, match="stream ARRIVALS: no leader answers"):
        await rest(reader)
    nats.streams["ARRIVALS"].leaderless = False
    assert await rest(reader) == ["one"]
