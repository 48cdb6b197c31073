"""`python -m kakuremichi_registry.against database|stream FILE`: an export held against where the log lives.

Prints a sentence for what is different, nothing if nothing is. The log may have gone on since the export.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from kakuremichi.audit import export
from kakuremichi.audit.beginning import opening
from kakuremichi.audit.chain import LogRow
from kakuremichi.audit.findings import compare
from kakuremichi.bus.credentials import credentials_of
from kakuremichi.bus.nats import NatsBus, NatsOptions
from kakuremichi.bus.port import Bus, BusError
from kakuremichi.bus.stored import StreamReader
from kakuremichi.bus.topology import AUDIT, AUDITOR, inbox_prefix
from kakuremichi.runtime.config import ConfigError, Secret, read_config
from kakuremichi.runtime.tls import context_for
from kakuremichi.wire.facts import LoggedFact
from kakuremichi_registry.database import Database, DatabaseUnavailableError, open_database
from kakuremichi_registry.store import history, retirement, truth

PAGE = 500
WAIT_S = 10.0


class DatabasePlace(Struct, frozen=True, kw_only=True):
    database_url: Secret


class StreamPlace(Struct, frozen=True, kw_only=True):
    """A user of the bus that may read AUDIT: the auditor's credentials."""

    nats_url: tuple[str, ...]
    nats_credentials: Path
    nats_ca: Path | None = None


Pages = AsyncIterator[list[LogRow]]


async def database_rows(database: Database, until: int, after: int = 0) -> Pages:
    _, last = await history.head(database)
    while rows := await truth.log_rows(database, after, min(until, last), PAGE):
        yield rows
        after = rows[-1].seq


async def stream_rows(bus: Bus, until: int, after: int = 0) -> Pages:
    """What AUDIT has stored, each row once: after a lost ack the relay may have stored some again."""
    seen = after
    async for messages in StreamReader(bus, AUDIT.name).pages():
        page = []
        for message in messages:
            row = LogRow.of(msgspec.json.decode(message.data, type=LoggedFact))
            if seen < row.seq <= until:
                seen = row.seq
                page.append(row)
        yield page


def _exported(file: Path, after: int = 0) -> Iterator[LogRow]:
    with file.open("rb") as lines:
        yield from (row for row in export.rows(lines) if row.seq > after)


async def differences(file: Path, theirs: Pages, place: str, after: int = 0) -> list[str]:
    """Of the rows behind `after`: one of the two may begin late.

    Compared in a thread that asks for one page after another: neither reading is held as a whole.
    """
    loop = asyncio.get_running_loop()

    async def turn() -> list[LogRow] | None:
        return await anext(theirs, None)

    def rows() -> Iterator[LogRow]:
        while (page := asyncio.run_coroutine_threadsafe(turn(), loop).result()) is not None:
            yield from page

    def compared() -> list[str]:
        return [str(finding) for finding in compare(_exported(file, after), rows(), names=(str(file), place))]

    return await asyncio.to_thread(compared)


async def _run(place: str, file: Path) -> list[str]:
    with file.open("rb") as lines:
        after = opening(lines).state.seq
    until = max((row.seq for row in _exported(file)), default=after)
    if place == "database":
        where = read_config(DatabasePlace)
        async with open_database(where.database_url.reveal()) as database:
            cut = await retirement.newest_cut(database)
            after = max(after, cut.seq if cut else 0)
            return await differences(file, database_rows(database, until, after), "the database", after)
    config = read_config(StreamPlace)
    options = NatsOptions(
        servers=config.nats_url, name="auditor", inbox_prefix=inbox_prefix(AUDITOR),
        tls=context_for(config.nats_url, config.nats_ca),
    )  # fmt: skip
    async with NatsBus(options, credentials_of(config.nats_credentials)) as bus:
        await bus.wait_connected(WAIT_S)
        return await differences(file, stream_rows(bus, until, after), "the stream AUDIT", after)


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("database", "stream"):
        sys.exit("usage: python -m kakuremichi_registry.against database|stream FILE")
    try:
        found = asyncio.run(_run(sys.argv[1], Path(sys.argv[2])))
    except (export.ExportError, ConfigError, BusError, DatabaseUnavailableError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.writelines(f"{sentence}\n" for sentence in found)


if __name__ == "__main__":
    main()
