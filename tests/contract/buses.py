"""The buses that the contract is tried on: the fake in memory, and a real nats-server with our configuration."""

import asyncio
from contextlib import AsyncExitStack
from typing import Protocol

from kakuremichi.bus.memory import MemoryNats
from kakuremichi.bus.nats import NatsBus
from kakuremichi.bus.port import Bus, Message
from kakuremichi.bus.server import NatsServer


class World(Protocol):
    async def bus(self, role: str, node: str = "") -> Bus: ...


class Memory:
    def __init__(self) -> None:
        self.nats = MemoryNats()

    async def bus(self, role: str, node: str = "") -> Bus:
        return self.nats.connect(f"reply.{node}" if node else role)


class Real:
    def __init__(self, server: NatsServer, stack: AsyncExitStack) -> None:
        self.server, self.stack = server, stack

    async def bus(self, role: str, node: str = "") -> NatsBus:
        bus = await self.stack.enter_async_context(self.server.bus(role, node=node))
        await bus.wait_connected(5)
        return bus


class Seen:
    """A handler that remembers, and lets a test wait until it has seen enough."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._more = asyncio.Condition()

    async def __call__(self, message: Message) -> None:
        async with self._more:
            self.messages.append(message)
            self._more.notify_all()

    async def wait_for(self, count: int) -> list[Message]:
        async with asyncio.timeout(5), self._more:
            await self._more.wait_for(lambda: len(self.messages) >= count)
            return self.messages

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]
