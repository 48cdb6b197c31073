"""Forward-only migrations: numbered files, applied once, in order, their checksums kept."""

import hashlib
from dataclasses import dataclass
from importlib import resources

import asyncpg

LOCK = 0x6B6B6D69  # pg_advisory_lock: one process migrates at a time


class MigrationError(Exception):
    """The database is not one that this program may use; a sentence."""


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> tuple[Migration, ...]:
    """The migrations of this release, in order."""
    folder = resources.files("kakuremichi_registry") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return tuple(Migration(file.name, file.read_text(encoding="utf-8")) for file in files)


def pending(applied: dict[str, str], known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    """What is still to be applied; :class:`MigrationError` if what was applied is not what we know."""
    checksums = {migration.name: migration.checksum for migration in known}
    for name, checksum in sorted(applied.items()):
        if name not in checksums:
            raise MigrationError(f"migration {name}: applied by a newer release, which is needed to use this database")
        if checksums[name] != checksum:
            raise MigrationError(f"migration {name}: its text is not the one that was applied to this database")
    return tuple(migration for migration in known if migration.name not in applied)


async def migrate(connection: asyncpg.Connection) -> tuple[str, ...]:
    """Bring the database to this release; the names of what was applied now."""
    await connection.execute("select pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(
            "create table if not exists migration"
            " (name text primary key, checksum text not null, at timestamptz not null default clock_timestamp())"
        )
        rows = await connection.fetch("select name, checksum from migration")
        todo = pending({row["name"]: row["checksum"] for row in rows}, shipped())
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into migration (name, checksum) values ($1, $2)", migration.name, migration.checksum
                )
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)
    return tuple(migration.name for migration in todo)
