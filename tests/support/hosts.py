"""Network namespaces of a test's own, one for each of a few hosts, and how to act inside them."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from kakuremichi.lab import namespaces

T = TypeVar("T")


class Hosts:
    """In a `with`: made before and removed after. Sockets made inside live there, whoever holds them."""

    def __init__(self, *hosts: str) -> None:
        prefix = f"kkh-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.names = {host: f"{prefix}-{host}" for host in hosts}

    def __enter__(self) -> Self:
        try:
            namespaces.ip_batch(None, [f"netns add {name}" for name in self.names.values()])
            for name in self.names.values():
                namespaces.ip_batch(name, ["link set lo up"])
            self.lay()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def lay(self) -> None:
        """Lay cables between them; by default there is none."""

    def _remove(self) -> None:
        namespaces.ip_batch(None, [f"netns delete {name}" for name in self.names.values()], force=True)

    def inside(self, host: str, action: Callable[[], T]) -> T:
        """Run `action` in a thread of its own that has entered the host's namespace."""

        def entered() -> T:
            with namespaces.in_namespace(self.names[host]):
                return action()

        with ThreadPoolExecutor(1) as threads:
            return threads.submit(entered).result()
