"""Loads that run beside a test, in threads: long transfers with a hash, new connections, datagrams every 5 ms."""

import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

from kakuremichi.lab.internet import Lab
from support import visits
from support.beside import Beside

GIB = 1 << 30
_PIECE = 1 << 18
_BLOCK = bytes(range(251)) * 256  # as the lab's targets serve it


def pattern_sha256(count: int) -> str:
    """The hash of `/bytes/count`."""
    digest, left = hashlib.sha256(), count
    block = _BLOCK * 16
    while left >= len(block):
        digest.update(block)
        left -= len(block)
    digest.update(block[:left])
    return digest.hexdigest()


class Transfer:
    """`count` bytes in a thread, paced to `rate` bytes a second until `hurry` is called."""

    def __init__(self, count: int, rate: float, work: Callable[["Transfer"], None]) -> None:
        self.count, self.done, self.sha256, self.error = count, 0, "", ""
        self._rate, self._hurried, self._began = rate, threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def lasts(self) -> bool:
        return self._thread.is_alive()

    def hurry(self) -> None:
        self._hurried.set()

    def join(self, timeout: float) -> None:
        """Wait for the end; fails if it did not come, or not well."""
        self._thread.join(timeout)
        assert not self.lasts, f"{self.done} of {self.count} bytes after {timeout:g} s more"
        assert not self.error, f"broken after {self.done} of {self.count} bytes: {self.error}"

    def moved(self, count: int) -> None:
        """Account for bytes, and wait until they are due."""
        self.done += count
        ahead = self.done / self._rate - (time.monotonic() - self._began)
        if ahead > 0:
            self._hurried.wait(ahead)

    def _run(self, work: Callable[["Transfer"], None]) -> None:
        try:
            work(self)
        except (OSError, ValueError, AssertionError) as error:
            self.error = f"{type(error).__name__}: {error}"


def http_download(lab: Lab, gateway: str, host: str, count: int, rate: float) -> Transfer:
    """GET /bytes/count through HAProxy."""

    def work(transfer: Transfer) -> None:
        with visits.connect(lab, "visitor", lab.address(gateway), 80, timeout=30) as connection:
            connection.sendall(f"GET /bytes/{count} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            with cast(io.BufferedReader, connection.makefile("rb", buffering=_PIECE)) as stream:
                status = stream.readline()
                assert b" 200 " in status, status
                while stream.readline().strip():
                    pass
                digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
                while got := stream.readinto(buffer):
                    digest.update(buffer[:got])
                    transfer.moved(got)
        assert transfer.done == count, f"{transfer.done} of {count} bytes came"
        transfer.sha256 = digest.hexdigest()

    return Transfer(count, rate, work)


def tcp_upload(lab: Lab, gateway: str, port: int, count: int, rate: float) -> Transfer:
    """PUT /upload to a target that is published as plain TCP, so that nftables alone carries it."""

    def work(transfer: Transfer) -> None:
        with visits.connect(lab, "visitor", lab.address(gateway), port, timeout=30) as connection:
            head = f"PUT /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {count}\r\n\r\n"
            connection.sendall(head.encode())
            block = memoryview(_BLOCK * 4)
            left = count
            while left:
                piece = block[: min(left, len(block))]
                connection.sendall(piece)
                left -= len(piece)
                transfer.moved(len(piece))
            with connection.makefile("rb") as stream:
                answer = stream.read().decode()
        assert f'"bytes": {count}' in answer, answer[:500]
        transfer.sha256 = answer.rpartition('"sha256": "')[2].partition('"')[0]

    return Transfer(count, rate, work)


class Visitors(Beside):
    """New connections one after the other, round and round over `visits`, each of which raises when it fails."""

    def __init__(self, rounds: dict[str, Callable[[], object]], pause_s: float) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.count, self.slowest_s = 0, 0.0
        self._rounds, self._pause_s = rounds, pause_s

    def _run(self) -> None:
        while not self._stop.is_set():
            for name, visit in self._rounds.items():
                began = time.monotonic()
                try:
                    visit()
                except (OSError, ValueError, AssertionError) as error:
                    self.failures.append(f"{name}: {type(error).__name__}: {error}")
                self.count += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if self._stop.wait(self._pause_s):
                    return


class Beat:
    """A flow of numbered datagrams that a UDP echo returns. Whoever sends calls `send`; a thread collects."""

    def __init__(self, name: str, door: socket.socket) -> None:
        self.name, self.sent = name, 0
        self._door, self._seen = door, set[int]()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> list[int]:
        return [number for number in range(self.sent) if number not in self._seen]

    def send(self) -> None:
        with suppress(ConnectionRefusedError):  # of an earlier one; that one's number stays unseen
            self._door.send(self.sent.to_bytes(8, "big"))
        self.sent += 1

    def end(self) -> None:
        """Wait for stragglers, two seconds after the last one at most."""
        self._ending.set()
        self._thread.join()
        self._door.close()

    def _collect(self) -> None:
        while not (self._ending.is_set() and len(self._seen) >= self.sent):
            try:
                self._seen.add(int.from_bytes(self._door.recv(64), "big"))
            except TimeoutError:
                if self._ending.is_set():
                    return
            except ConnectionRefusedError:
                continue


@contextmanager
def beating(lab: Lab, doors: dict[str, tuple[str, int]], every_s: float = 0.005) -> Iterator[list[Beat]]:
    """One datagram through every door each `every_s`."""
    beats = [Beat(name, _door(lab, address, port)) for name, (address, port) in doors.items()]
    stop = threading.Event()

    def send() -> None:
        due = time.monotonic()
        while not stop.is_set():
            for beat in beats:
                beat.send()
            due = max(due + every_s, time.monotonic() - 1)  # a starved machine catches up, within reason
            time.sleep(max(0.0, due - time.monotonic()))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield beats
    finally:
        stop.set()
        sender.join()
        for beat in beats:
            beat.end()


def _door(lab: Lab, address: str, port: int) -> socket.socket:
    with lab.in_namespace("visitor"):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.settimeout(2.0)
    made.connect((address, port))
    return made
