"""Netlink in batches: many requests in one system call, dumps without an object per attribute.

pyroute2 serves what happens once (making a link, its alias). Routes, addresses and peers come by the thousand, and
there its 0.1 to 0.3 ms of object building per message are the whole cost; so these are packed and unpacked here.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x300, 0x200, 0x400
_NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_SO_RCVBUFFORCE = 33

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 65536  # the kernel never builds a larger dump message than 32 KiB
_RECEIVE_BUFFER = 1 << 21
# An acknowledgement takes about 1 KiB of the receive buffer whatever its length, and an unprivileged buffer is 208 KiB.
_BATCH_MESSAGES, _BATCH_BYTES = 128, 131072
_DUMP_ATTEMPTS = 10
_ANSWER_S = 20.0


class NetlinkError(OSError):
    """The kernel refused a request: `errno` is its number, `strerror` a sentence, with its reason if it gave one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One netlink request: the message type, its flags (REQUEST and ACK are added) and what follows the header."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the kernel's answer: its type and what follows the netlink header."""

    kind: int
    body: memoryview


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes. Raises struct.error beyond 65,531 bytes."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, payload)


def attributes(body: memoryview, offset: int = 0) -> Iterator[tuple[int, memoryview]]:
    """The (type, payload) pairs from `offset` on; nested ones are opened by calling this on their payload."""
    end = len(body)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4 or offset + length > end:
            raise NetlinkError(errno.EBADMSG, f"netlink: an attribute of {length} bytes where {end - offset} are left")
        yield kind & _NLA_TYPE_MASK, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3


class NetlinkSocket:
    """One netlink socket of the network namespace it was made in. Requests of several tasks take turns."""

    def __init__(self, family: int, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.setblocking(False)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # inside a user namespace: the smaller buffer is enough for one batch
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((0, groups))
        self._sequence = 0
        self._unread = False
        self._turn = asyncio.Lock()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Perform the requests in order; one result each. A refused one does not stop those after it.

        If the socket itself fails, its error is the result of all that were not acknowledged: they may be repeated.
        """
        results: list[NetlinkError | None] = []
        try:
            async with self._turn, self._whole_answer():
                for batch in _batches(requests):
                    results += await self._send_batch(batch)
                    await asyncio.sleep(0)  # thousands of routes must not hold up the loop
        except NetlinkError as error:
            results += [error] * (len(requests) - len(results))
        return results

    async def ask(self, request: Request) -> list[Answer]:
        """The messages that answer one request. Raises NetlinkError."""
        async with self._turn, self._whole_answer():
            answers, _ = await self._collect(request)
        return answers

    async def dump(self, kind: int, body: bytes) -> list[Answer]:
        """A whole table. One that changed while the kernel was telling it is asked for again. Raises NetlinkError."""
        async with self._turn, self._whole_answer():
            for _ in range(_DUMP_ATTEMPTS):
                answers, interrupted = await self._collect(Request(kind, NLM_F_DUMP, body))
                if not interrupted:
                    return answers
        raise NetlinkError(
            errno.EINTR, f"dump of type {kind}: the table changed during each of {_DUMP_ATTEMPTS} attempts"
        )

    async def transaction(self, begin: Request, inside: Sequence[Request], end: Request) -> None:
        """All of `inside` or nothing of it, between the messages that frame it. Raises NetlinkError."""
        async with self._turn, self._whole_answer():
            requests = (begin, *inside, end)
            first = self._sequence + 1
            self._sequence += len(requests)
            waited = set(range(first + 1, first + 1 + len(inside)))  # only newer kernels acknowledge the frame
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(_ANSWER_S):
                packed = (_pack(request, first + index) for index, request in enumerate(requests))
                await loop.sock_sendall(self._socket, b"".join(packed))
                while waited:
                    data = memoryview(await loop.sock_recv(self._socket, _RECEIVE_BYTES))
                    for kind, flags, sequence, body in _messages(data):
                        if kind == _NLMSG_ERROR and sequence >= first:
                            if (error := _error_of(flags, body)) is not None:
                                raise error
                            waited.discard(sequence)
        self.discard()

    async def receive(self) -> list[Answer]:
        """The next messages of the groups joined. Raises OSError with ENOBUFS when some were lost."""
        data = memoryview(await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE_BYTES))
        return [Answer(kind, body) for kind, _, _, body in _messages(data)]

    @asynccontextmanager
    async def _whole_answer(self) -> AsyncIterator[None]:
        # A reader that was cancelled leaves the rest of its answer behind, and the kernel then answers EBUSY to a dump.
        if self._unread:
            self.discard()
        self._unread = True
        try:
            yield
        except NetlinkError:
            self._unread = False
            raise
        except TimeoutError as error:
            raise NetlinkError(errno.ETIMEDOUT, f"the kernel gave no answer within {_ANSWER_S:.0f} s") from error
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, f"netlink socket: {error.strerror}") from error
        self._unread = False

    def discard(self) -> None:
        """Throw away what has arrived and was not read."""
        with suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_RECEIVE_BYTES)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    async def _send_batch(self, batch: Sequence[Request]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        self._sequence += len(batch)
        data = b"".join(_pack(request, first + index) for index, request in enumerate(batch))
        loop = asyncio.get_running_loop()
        results: dict[int, NetlinkError | None] = {}
        async with asyncio.timeout(_ANSWER_S):
            await loop.sock_sendall(self._socket, data)
            while len(results) < len(batch):
                answer = memoryview(await loop.sock_recv(self._socket, _RECEIVE_BYTES))
                for kind, flags, sequence, body in _messages(answer):
                    if kind == _NLMSG_ERROR and sequence >= first:
                        results[sequence] = _error_of(flags, body)
        return [results[first + index] for index in range(len(batch))]

    async def _collect(self, request: Request) -> tuple[list[Answer], bool]:
        self._sequence += 1
        answers: list[Answer] = []
        interrupted = False
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_S):
            await loop.sock_sendall(self._socket, _pack(request, self._sequence))
            while True:
                data = memoryview(await loop.sock_recv(self._socket, _RECEIVE_BYTES))
                for kind, flags, sequence, body in _messages(data):
                    if sequence != self._sequence:
                        continue
                    interrupted |= bool(flags & NLM_F_DUMP_INTR)
                    if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                        if (error := _error_of(flags, body)) is not None:
                            raise error
                        return answers, interrupted
                    answers.append(Answer(kind, body))
                await asyncio.sleep(0)


def _batches(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    start = size = 0
    for index, request in enumerate(requests):
        if index - start == _BATCH_MESSAGES or (size and size + len(request.body) > _BATCH_BYTES):
            yield requests[start:index]
            start, size = index, 0
        size += len(request.body)
    if start < len(requests):
        yield requests[start:]


def _pack(request: Request, sequence: int) -> bytes:
    length = _HEADER.size + len(request.body)
    flags = request.flags | NLM_F_REQUEST | NLM_F_ACK
    return _HEADER.pack(length, request.kind, flags, sequence, 0) + request.body + bytes(-length % 4)


def _messages(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _error_of(flags: int, body: memoryview) -> NetlinkError | None:
    """An acknowledgement is an error with number zero; so is the end of a dump, whose body may be missing."""
    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if number == 0:
        return None
    sentence = os.strerror(number).lower()
    if flags & _NLM_F_ACK_TLVS and len(body) > 20:
        told = [bytes(payload) for kind, payload in attributes(body, 20) if kind == _NLMSGERR_ATTR_MSG]
        sentence = "; ".join([text.rstrip(b"\0").decode(errors="replace") for text in told] + [sentence])
    return NetlinkError(number, sentence)
