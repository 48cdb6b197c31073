"""HAProxy's runtime socket: commands in, one reply for each out. Reference: HAProxy's management guide, chapter 9.3."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

Command = tuple[str, ...]
"""The words of one command. Each is checked: what could end a word or a command never reaches the socket."""

# `;` would end a command, a backslash or a quote change how the next word is read.
_WORD = re.compile(r"\A[A-Za-z0-9_.:/@=|*%,+\[\]()!$&~-]+\Z")
MAX_COMMAND = 4096
# HAProxy drops a payload of 16 KiB and more in silence (bound by tune.bufsize and, before 3.4, by the CLI itself).
MAX_PAYLOAD = 15 * 1024
# In interactive mode every reply ends like this, whatever the command; outside of it some replies
# end in one newline and some in two, so that joined commands cannot be told apart.
_PROMPT = "\n> "


class ProxyError(Exception):
    """HAProxy refused something, or answered what it should not."""


class ProxyUnavailableError(ProxyError):
    """Nobody answers at the socket: HAProxy is not running, or is being replaced."""


class CommandRefusedError(ProxyError, ValueError):
    """The command was not sent, because a word in it could be read as another command."""


class Conversation:
    """Several batches over one connection, each worked out from the replies to the one before."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name, self._reader, self._writer = name, reader, writer
        self._first = True

    async def ask(self, commands: Sequence[Command]) -> list[str]:
        """The reply to each command, as of `RuntimeClient.execute`."""
        lines = [*(["prompt"] if self._first else []), *(_line(command) for command in commands)]
        self._first = False
        self._writer.write("".join(f"{line}\n" for line in lines).encode())
        answer = ""
        while answer.count(_PROMPT) < len(lines):
            part = await self._reader.read(65536)
            if not part:
                raise ProxyError(f"{self._name}: {answer.count(_PROMPT)} of {len(lines)} commands were answered")
            answer += part.decode(errors="replace")
        replies = answer.split(_PROMPT)[:-1]
        return [reply.strip("\n") for reply in replies[len(lines) - len(commands) :]]


class RuntimeClient:
    """One connection per batch: it cannot be left half-read, and holds no old worker alive after a reload."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def execute(self, commands: Sequence[Command]) -> list[str]:
        """The reply to each command, in order and without surrounding newlines; "" is HAProxy's silent success.

        Raises CommandRefusedError before anything is sent, ProxyUnavailableError if nobody answers, ProxyError
        if the connection ended early: then any number of the commands may have been carried out.
        """
        if not commands:
            return []
        lines = ["prompt", *(_line(command) for command in commands), "quit"]
        answer = await self._converse("\n".join(lines) + "\n")
        _, *replies = answer.split(_PROMPT)  # the first belongs to `prompt`, the last to `quit`
        if len(replies) != len(commands) + 1:
            answered = max(len(replies) - 1, 0)
            raise ProxyError(f"{self._path.name}: {answered} of {len(commands)} commands were answered")
        return [reply.strip("\n") for reply in replies[:-1]]

    @asynccontextmanager
    async def conversation(self) -> AsyncIterator[Conversation]:
        """For a few batches one after another; what it raises is as of `execute`."""
        async with self._connected() as (reader, writer):
            yield Conversation(self._path.name, reader, writer)

    async def send_payload(self, command: Command, payload: str) -> str:
        """The reply to one command that takes lines, such as `set ssl cert`.

        Raises CommandRefusedError for a payload of 15 KiB or with an empty line, which would end it early;
        ProxyError if HAProxy says nothing, as it does when it drops one.
        """
        size = len(payload.encode())
        if size >= MAX_PAYLOAD:
            raise CommandRefusedError(
                f"{' '.join(command[:3])}: payload of {size} bytes, HAProxy takes less than 15360"
            )
        lines = payload.rstrip("\n").split("\n")
        if not all(line.strip() for line in lines) or "\r" in payload or "\0" in payload:
            raise CommandRefusedError(f"{' '.join(command[:3])}: the payload has an empty line or a control character")
        body = "\n".join(lines)
        reply = (await self._converse(f"{_line(command)} <<\n{body}\n\n")).strip("\n")
        if not reply:
            raise ProxyError(f"{' '.join(command[:3])}: HAProxy answered nothing, so the payload was dropped")
        return reply

    async def ask_master(self, command: Command) -> str:
        """The reply of the master process (`show proc`, `reload`); it closes only when we have closed our side.

        A reload on 2.6 ends the connection without a word: then "".
        """
        return (await self._converse(_line(command) + "\n", close_first=True)).strip("\n")

    async def _converse(self, text: str, *, close_first: bool = False) -> str:
        async with self._connected() as (reader, writer):
            writer.write(text.encode())
            if close_first:
                writer.write_eof()
            # Read while the transport still writes: HAProxy answers as it goes and stops
            # reading when its replies are not taken.
            return (await reader.read()).decode(errors="replace")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    yield reader, writer
                finally:
                    writer.close()
        except TimeoutError as error:
            raise ProxyUnavailableError(f"{self._path.name}: no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise ProxyUnavailableError(f"{self._path.name}: nobody answers ({error.strerror or error})") from error


def _line(command: Command) -> str:
    for word in command:
        if not _WORD.match(word):
            raise CommandRefusedError(
                f"{' '.join(command[:2])!r}: the word {word[:80]!r} has a character not allowed here"
            )
    line = " ".join(command)
    if not command or len(line) > MAX_COMMAND:
        raise CommandRefusedError(f"command of {len(line)} characters: 1 to {MAX_COMMAND} are allowed")
    return line
