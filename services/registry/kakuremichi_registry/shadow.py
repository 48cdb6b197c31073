"""`python -m kakuremichi_registry.shadow FILE [MOMENT]`: a second, empty database is filled with what an export tells.

`KAKUREMICHI_DATABASE_URL` names it. The rows are those of the truth and of the log; nobody can redeem its join tokens,
whose secrets are in no log, and no feed has an item: it is for looking at, with a registry of its own, not for nodes.
"""

import asyncio
import hashlib
import sys
from datetime import datetime
from pathlib import Path

import asyncpg
from msgspec import Struct

from kakuremichi.audit import export
from kakuremichi.audit.beginning import opening
from kakuremichi.audit.chain import ChainError, LogRow, verify_chain
from kakuremichi.audit.fold import FoldError, fold
from kakuremichi.audit.moments import Moment, MomentError, parse_moment, refuse_earlier
from kakuremichi.audit.rows import lines
from kakuremichi.audit.state import State, digest, later
from kakuremichi.runtime.config import ConfigError, Secret, read_config
from kakuremichi_registry.allocator import DEFAULT_NETWORKS
from kakuremichi_registry.database import Database, DatabaseUnavailableError, open_database
from kakuremichi_registry.migrate import MigrationError, migrate
from kakuremichi_registry.store import shadow, truth

USAGE = 2  # as the command line's own exit codes
SLICE = 500


class ShadowConfig(Struct, frozen=True, kw_only=True):
    database_url: Secret


class ShadowError(Exception):
    """The database or the file is not one that can be used; a sentence."""


async def fill(database: Database, file: Path, moment: Moment) -> State:
    """Migrate the database, refuse it unless it is empty, write log and rows, and read them back.

    :class:`ShadowError`, or what the export, the chain or the fold has to say.
    """
    async with database.own_connection() as connection:
        await migrate(connection)
        if await connection.fetchval("select exists (select from log_head) or exists (select from deployment)"):
            raise ShadowError("database: is not empty; a shadow is made in one that was never used")
        async with connection.transaction():
            state = await _write(connection, file, moment)
    at = moment.at or state.at
    found = await truth.read(database, datetime.fromisoformat(at) if at else None)
    if lines(found.rows) != state.lines(at):
        raise ShadowError("database: does not hold what the log folds into; do not use it")
    return state


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", file: Path, moment: Moment) -> State:
    with file.open("rb") as source:
        header, begin, state = opening(source)
        source.seek(0)
        refuse_earlier(moment, state)
        if begin is not None:
            await shadow.begin_late(connection, begin, state)
        rows = list[LogRow]()
        for row in export.rows(source):
            if (0 <= moment.seq < row.seq) or (moment.at and later(row.at, moment.at)):
                break
            rows.append(row)
            if len(rows) == SLICE:
                await _append(connection, state, rows)
                rows = []
        await _append(connection, state, rows)
    if state.seq < moment.seq:
        raise MomentError(f"log row {moment.seq}: the log ends with row {state.seq}")
    await shadow.begin(connection, header, state, DEFAULT_NETWORKS)
    await shadow.put(connection, state, _secret_of)
    return state


async def _append(connection: "asyncpg.Connection[asyncpg.Record]", state: State, rows: list[LogRow]) -> None:
    verify_chain(rows, after=state.seq, hash_after=state.hash)
    fold(state, rows)
    await shadow.append_log(connection, rows)


def _secret_of(token_id: str) -> bytes:
    """In place of the hash of a token's secret: nothing hashes to it that anybody could say."""
    return hashlib.sha256(b"kakuremichi shadow " + token_id.encode()).digest()


async def _run(file: Path, moment: str) -> str:
    config = read_config(ShadowConfig)
    async with open_database(config.database_url.reveal()) as database:
        state = await fill(database, file, parse_moment(moment))
    canonical = state.lines()
    return f"row {state.seq} of {state.at}: {len(canonical)} rows, SHA-256 {digest(canonical)}"


def main() -> None:
    given = sys.argv[1:]
    if len(given) not in (1, 2):
        sys.exit("usage: python -m kakuremichi_registry.shadow FILE [TIME|SEQ]")
    refused: tuple[type[Exception], ...] = (
        export.ExportError, ChainError, FoldError, MomentError, ShadowError, ConfigError, MigrationError,
    )  # fmt: skip
    try:
        sys.stdout.write(asyncio.run(_run(Path(given[0]), given[1] if len(given) > 1 else "now")) + "\n")
    except refused as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(USAGE)
    except OSError as error:
        sys.stderr.write(f"{given[0]}: {error.strerror or error}\n")
        sys.exit(USAGE)
    except DatabaseUnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
