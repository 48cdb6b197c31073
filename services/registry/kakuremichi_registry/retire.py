"""`python -m kakuremichi_registry.retire --before TIME|SEQ --to FILE`: old rows leave the database, with an export.

`KAKUREMICHI_DATABASE_URL` names it. First the file is on the disk and verified, then the rows go, in one transaction
with the row that says so. A run that ends in between has changed nothing; the next one goes on with its file.
"""

import argparse
import asyncio
import base64
import getpass
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from kakuremichi.audit import export
from kakuremichi.audit.beginning import begin_of
from kakuremichi.audit.fold import FoldError
from kakuremichi.audit.merkle import Frontier
from kakuremichi.audit.moments import MomentError, parse_moment
from kakuremichi.audit.seals import Authority, AuthorityError, authority_of, open_checkpoint
from kakuremichi.audit.verify import Cover, Report
from kakuremichi.model.ids import NodeId
from kakuremichi.runtime.config import ConfigError, Secret, read_config
from kakuremichi.runtime.files import sync_folder
from kakuremichi.wire.codec import encode
from kakuremichi.wire.facts import LogRetired
from kakuremichi_registry import retired_export
from kakuremichi_registry.database import Database, DatabaseUnavailableError, StaleError, open_database
from kakuremichi_registry.retired_export import ReadBack
from kakuremichi_registry.retirement import Partition, RetireError, Seen, choose, kept_back
from kakuremichi_registry.store import checkpoints, history, retirement, truth
from kakuremichi_registry.store.entries import entry_of
from kakuremichi_registry.store.retirement import Cut
from kakuremichi_registry.tree import RowsMissingError

USAGE = 2  # as the command line's own exit codes
LOCK = 0x6B6B7274  # pg_advisory_lock: one retirement at a time
ATTEMPTS = 30
PAUSE_S = 0.5


class RetireConfig(Struct, frozen=True, kw_only=True):
    database_url: Secret


class Retirement:
    """One run. `witnesses` is how many gateways have to have signed the checkpoint that covers what goes."""

    _log_id: str
    _authority: Authority

    def __init__(self, database: Database, file: Path, *, witnesses: int = 1, trust_sha256: bytes = b"") -> None:
        self._database, self._file, self._witnesses, self._trust_sha256 = database, file, witnesses, trust_sha256

    async def run(self, before: str, actor: str) -> str:
        """What was done, in a sentence; :class:`RetireError` if nothing was."""
        async with self._alone():
            cut = await retirement.newest_cut(self._database)
            seen = await self._look(cut)
            bound = await self._bound(before, seen.last)
            going = choose(seen, before=bound, witnesses=self._witnesses)
            staying = kept_back(seen, going, before=bound)
            if not self._file.exists():
                last = going[-1].last
                covering = await self._vouched_for(await self._sizes(last), seen.covered)
                await retired_export.write(self._database, self._file, cut, last, covering)
            found = await asyncio.to_thread(retired_export.read_back, self._file, self._trust_sha256)
            sync_folder(self._file.absolute().parent)
            going = await self._fitting(found, going, seen.cut)
            row = await self._cut(found, going, actor)
        first, last = found.report.after + 1, found.report.last
        said = f"rows {first} to {last} retired: {self._file} has them, its SHA-256 is {found.sha256.hex()}; row"
        said += f" {row} of the log says so"
        return said + "".join(f"\nrows {part.first} to {part.last} stay: not enough vouch for them" for part in staying)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._database.own_connection() as connection:
            if not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
                raise RetireError("database: another retirement is under way; wait for its end")
            yield

    async def _look(self, cut: Cut | None) -> Seen:
        partitions = await retirement.partitions(self._database)
        known = await retirement.deployment(self._database)
        if known is None:
            raise RetireError("database: is of no deployment, there is nothing in it")
        self._log_id, self._authority = known.log_id, authority_of(retired_export.header_of(known))
        if self._trust_sha256 not in (b"", self._authority.trust_sha256):
            found = self._authority.trust_sha256.hex()
            raise RetireError(f"database: its trust set has the SHA-256 {found}, not the given one")
        last = (await history.head(self._database))[1]
        covered = await self._vouched_for(reversed(await self._sizes(partitions[0].last)), 0)
        return Seen(partitions, cut.seq if cut else 0, last, await retirement.relayed(self._database), covered)

    async def _sizes(self, least: int) -> list[int]:
        """Of checkpoints of at least `least` rows with signatures enough, whatever these are worth; ascending."""
        return sorted(await retirement.covering(self._database, least, self._witnesses))

    async def _vouched_for(self, sizes: Iterable[int], otherwise: int) -> int:
        """The first of the sizes that enough gateways vouch for. Few are looked at: usually the first is one."""
        for size in sizes:
            if await self._is_vouched_for(size):
                return size
        return otherwise

    async def _is_vouched_for(self, size: int) -> bool:
        found = await checkpoints.between(self._database, size - 1, size, 1)
        if not found:
            return False  # forgotten meanwhile, as another of its day covers it
        line = export.CheckpointLine(
            size=size, signed=encode(found[0].signed), witnesses=tuple(map(encode, found[0].witnesses))
        )
        try:
            return len(set(open_checkpoint(self._authority, line, self._log_id).witnesses)) >= self._witnesses
        except AuthorityError:
            return False

    async def _bound(self, before: str, last: int) -> int:
        """The first row that stays in any case."""
        moment = parse_moment(before)
        if moment.seq >= 0:
            return moment.seq
        if not moment.at:
            return last + 1
        return await history.seq_at(self._database, datetime.fromisoformat(moment.at)) + 1

    async def _fitting(self, found: ReadBack, going: tuple[Partition, ...], cut: int) -> tuple[Partition, ...]:
        """Those of the partitions whose rows are in the file: all, unless it is from an earlier run."""
        report = found.report
        rows = await truth.log_rows(self._database, report.last - 1, report.last, 1)
        ends = [number for number, part in enumerate(going, 1) if part.last == report.last]
        same = bool(rows) and rows[0].hash == report.hash
        if not (ends and same and report.after == cut and report.witnessed == report.last):
            raise RetireError(
                f"{self._file}: is not the export of rows {cut + 1} to {going[-1].last}; name a file that is not there"
            )
        if len(set(_cover(report).witnesses)) < self._witnesses:
            raise RetireError(f"{self._file}: is there, and fewer than {self._witnesses} gateways vouch for it")
        return going[: ends[0]]

    async def _cut(self, found: ReadBack, going: tuple[Partition, ...], actor: str) -> int:
        report = found.report
        first = report.after
        run = checkpoints.RUN
        if first % run or report.last % run:
            raise RetireError(
                f"rows {first + 1} to {report.last}: are no whole runs of {run}; is this a newer release?"
            )
        for number in range(first // run, report.last // run):
            entries = found.entries[number * run - first : (number + 1) * run - first]
            await retirement.keep_run(self._database, number, b"".join(entries))
        cut = Cut(first + 1, report.last, report.hash, found.state.at, report.roots, found.sha256, 0, "")
        entry = entry_of(fact_of(found), None, actor=actor)
        for _ in range(ATTEMPTS):
            try:
                return (await retirement.retire(self._database, entry, going, cut, found.state)).seq
            except DatabaseUnavailableError as error:
                reason = str(error)
            except StaleError as error:
                done = await retirement.newest_cut(self._database)
                if done is not None and done.export_sha256 == found.sha256:
                    return done.event_seq  # by the attempt before, whose answer was lost
                raise RetireError("database: the log is not the one any more that was exported") from error
            await asyncio.sleep(PAUSE_S)
        raise RetireError(
            f"{reason}; {self._file} is whole, nothing was retired. Does something read or write the log for long,"
            " such as pg_dump? Later the same command goes on with the file"
        )


def fact_of(found: ReadBack) -> LogRetired:
    report, cover = found.report, _cover(found.report)
    begin, _ = begin_of(found.state, report.roots, found.sha256)
    return LogRetired(
        first=report.after + 1, last=report.last, hash=report.hash.hex(),
        root=Frontier(report.last, report.roots).root().hex(), checkpoint=base64.b64encode(cover.signed).decode(),
        checkpoint_size=cover.size, witnesses=tuple(NodeId(name) for name in sorted(set(cover.witnesses))),
        export_sha256=found.sha256.hex(), state_sha256=begin.state_sha256,
    )  # fmt: skip


def _cover(report: Report) -> Cover:
    if report.cover is None:
        raise RetireError(f"rows {report.after + 1} to {report.last}: no checkpoint covers them in the file")
    return report.cover


async def _run(given: argparse.Namespace) -> str:
    config = read_config(RetireConfig)
    async with open_database(config.database_url.reveal()) as database:
        trust = bytes.fromhex(given.trust_sha256)
        retirement_ = Retirement(database, given.to, witnesses=given.witnesses, trust_sha256=trust)
        return await retirement_.run(given.before, f"host/{_who()}")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kakuremichi_registry.retire")
    parser.add_argument("--before", required=True, metavar="TIME|SEQ")
    parser.add_argument("--to", required=True, type=Path, metavar="FILE")
    parser.add_argument("--witnesses", type=int, default=1)
    parser.add_argument("--trust-sha256", default="", metavar="HEX")
    given = parser.parse_args()
    try:
        sys.stdout.write(asyncio.run(_run(given)) + "\n")
    except (RetireError, MomentError, ConfigError, AuthorityError, export.ExportError, FoldError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(USAGE)
    except OSError as error:
        sys.stderr.write(f"{given.to}: {error.strerror or error}\n")
        sys.exit(USAGE)
    except (DatabaseUnavailableError, RowsMissingError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
