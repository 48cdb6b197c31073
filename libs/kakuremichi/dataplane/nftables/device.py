"""The kernel's table as the reconciler sees it, and the real one behind nft."""

import asyncio
import os
from collections.abc import Mapping
from typing import Protocol

from kakuremichi.dataplane.nftables.errors import DeviceError, RefusedError, TableError
from kakuremichi.dataplane.nftables.reader import Actual, Counters, parse_counters, parse_table
from kakuremichi.dataplane.nftables.render import Batch, script
from kakuremichi.dataplane.nftables.skeleton import check_table_name

TABLE_NAME = "kakuremichi"
_TIMEOUT_S = 20.0
_ATTEMPTS = 5


class Table(Protocol):
    """`apply` does all of a batch or nothing: :class:`RefusedError` says nothing, :class:`DeviceError` unknown."""

    async def read(self) -> Actual | None: ...
    async def apply(self, batch: Batch) -> None: ...
    async def counters(self) -> Mapping[int, Counters]: ...


class NftTable:
    """`table inet <name>`; `command` may lead into a network namespace (`ip netns exec NAME nft`)."""

    def __init__(self, name: str = TABLE_NAME, *, command: tuple[str, ...] = ("nft",)) -> None:
        self.name = check_table_name(name)
        self._command = command

    async def read(self) -> Actual | None:
        """None if the table does not exist."""
        try:
            listing = await self._run("-j", "list", "table", "inet", self.name)
        except RefusedError as error:
            if "No such file or directory" in str(error):
                return None
            raise DeviceError(str(error)) from error
        # With 10,000 services this takes most of a second: in a thread, so that the event loop goes on.
        return await asyncio.to_thread(parse_table, listing)

    async def apply(self, batch: Batch) -> None:
        text = script(batch, self.name).encode()
        for attempt in range(_ATTEMPTS):
            try:
                await self._run("-f", "-", stdin=text)
            except RefusedError as error:
                # Somebody else's transaction came between nft's look at the ruleset and its own: nothing was applied.
                if "Interrupted system call" not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    async def counters(self) -> Mapping[int, Counters]:
        """By service or target number; empty if the table does not exist."""
        # The part before the whole, so that it is never more.
        returned, used, opened, refused = [
            await self._list_set(name) for name in ("returned", "used", "opened", "refused")
        ]
        # With 10,000 services this takes a tenth of a second: in a thread, so that the event loop goes on.
        return await asyncio.to_thread(parse_counters, used, opened, refused, returned)

    async def _list_set(self, name: str) -> bytes:
        """nft's JSON; "" if there is no such table, or the table has no such set: an agent refuses nobody."""
        try:
            return await self._run("-j", "list", "set", "inet", self.name, name)
        except RefusedError as error:
            if "No such file or directory" in str(error):
                return b""
            raise DeviceError(str(error)) from error

    async def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},  # the reasons are compared with words
            )
        except OSError as error:
            raise DeviceError(f"nft: cannot be started ({error})") from error
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate(stdin)
        except TimeoutError as error:
            raise DeviceError(f"nft: no answer within {_TIMEOUT_S:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise _failure(process.returncode or 0, err.decode(errors="replace"))
        return out


def _failure(code: int, stderr: str) -> TableError:
    lines = [line for line in stderr.splitlines() if "rror" in line] or stderr.splitlines()
    reason = lines[0].partition("rror: ")[2] or lines[0] if lines else f"exit code {code}"
    if "Operation not permitted" in stderr or "Permission denied" in stderr:
        return DeviceError(f"nft: {reason}; the capability CAP_NET_ADMIN is needed")
    if code < 0:
        return DeviceError(f"nft: killed by signal {-code}")
    return RefusedError(f"nft: {reason}")
