"""What is said of a PostgreSQL that does not answer."""

import asyncio

import pytest

from kakuremichi_registry import database
from kakuremichi_registry.database import DatabaseUnavailableError, open_database


async def test_a_server_that_says_nothing_is_named_in_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "ACQUIRE_TIMEOUT_S", 0.1)
    over = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(DatabaseUnavailableError, match=r"^database: no answer in time$"):
            async with open_database(f"postgresql://nobody@{host}:{port}/kakuremichi?sslmode=disable"):
                pytest.fail("nobody is there")
        over.set()
