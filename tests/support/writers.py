"""Writes at a steady rate beside a test, and what they allow the registry to say afterwards."""

import random
import time
from types import TracebackType
from typing import Any

from kakuremichi.fleet.api import Api, ApiError
from kakuremichi.fleet.lab_fleet import Fleet
from support.beside import Beside

FIRST_PORT = 10000


class Writer(Beside):
    """Publishes, moves and unpublishes TCP services of its own, `rate` writes a second.

    `allowed` has for each name the public ports that may stand there (0: unpublished). A write that was answered
    with success leaves one; a write without an answer may have been done or not, and its name is left alone then.
    """

    def __init__(self, fleet: Fleet, rate: float, seed: int) -> None:
        super().__init__()
        self.allowed: dict[str, set[int]] = {}
        self.answered = self.unanswered = 0
        self.events: dict[int, str] = {}  # place in the log by the answer → the service it is about
        self.refused: list[str] = []
        self._api: Api = fleet.api()
        self._random = random.Random(seed)
        self._pause_s = 1 / rate
        self._ports = FIRST_PORT

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._api.close()

    def faults(self, services: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[str]:
        """What of the registry's services and of its log contradicts the answers."""
        logged = {event["seq"]: event["fact"].get("service_id") for event in events}
        lost = [f"event {seq}: not about {name}" for seq, name in self.events.items() if logged.get(seq) != name]
        ports = {service["name"]: service["port"] for service in services}
        return lost + [
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
            answer = self._send(name, port)
        except ApiError as error:
            if 400 <= error.status < 500:
                self.refused.append(f"{name}: {error}")
                return
            self.unanswered += 1
            self.allowed.setdefault(name, {0}).add(port)
        else:
            self.answered += 1
            self.allowed[name] = {port}
            self.events[answer["seq"]] = name

    def _send(self, name: str, port: int) -> dict[str, Any]:
        if not port:
            answer = self._api.call("DELETE", f"/services/{name}")[1]
        else:
            targets = [{"agent": "site-b", "address": "127.0.0.1", "port": 7007}]
            answer = self._api.call("PUT", f"/services/{name}", {"kind": "tcp", "port": port, "targets": targets})[1]
        assert isinstance(answer, dict)
        return answer
