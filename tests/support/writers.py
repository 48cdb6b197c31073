"""Writes at a steady rate beside a test, and what they allow the registry to say afterwards."""

import random
import threading
import time
from types import TracebackType
from typing import Any, Self

from kakuremichi.fleet.api import Api, ApiError
from kakuremichi.fleet.lab_fleet import Fleet

FIRST_PORT = 10000


class Writer:
    """Publishes, moves and unpublishes TCP services of its own, `rate` writes a second.

    `allowed` has for each name the public ports that may stand there (0: unpublished). A write that was answered
    with success leaves one; a write without an answer may have been done or not, and its name is left alone then.
    """

    def __init__(self, fleet: Fleet, rate: float, seed: int) -> None:
        self.allowed: dict[str, set[int]] = {}
        self.answered = self.unanswered = 0
        self.refused: list[str] = []
        self._api: Api = fleet.api()
        self._random = random.Random(seed)
        self._pause_s = 1 / rate
        self._ports = FIRST_PORT
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._api.close()

    def faults(self, services: list[dict[str, Any]]) -> list[str]:
        """What of the registry's list contradicts the answers."""
        ports = {service["name"]: service["port"] for service in services}
        return [
            f"{name}: port {ports.get(name, 0)}, by the answers one of {sorted(allowed)}"
            for name, allowed in self.allowed.items()
            if ports.get(name, 0) not in allowed
        ]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._write()
            due = max(due + self._pause_s, time.monotonic() - 1)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _write(self) -> None:
        certain = [name for name, allowed in self.allowed.items() if len(allowed) == 1 and 0 not in allowed]
        name = self._random.choice(certain) if certain and self._random.random() < 0.6 else f"w{len(self.allowed)}"
        port = 0
        if name not in certain or self._random.random() < 0.4:
            self._ports += 1
            port = self._ports
        try:
            self._send(name, port)
        except ApiError as error:
            if 400 <= error.status < 500:
                self.refused.append(f"{name}: {error}")
                return
            self.unanswered += 1
            self.allowed.setdefault(name, {0}).add(port)
        else:
            self.answered += 1
            self.allowed[name] = {port}

    def _send(self, name: str, port: int) -> None:
        if port:
            targets = [{"agent": "site-b", "address": "127.0.0.1", "port": 7007}]
            self._api.call("PUT", f"/services/{name}", {"kind": "tcp", "port": port, "targets": targets})
        else:
            self._api.call("DELETE", f"/services/{name}")
