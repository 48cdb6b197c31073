"""Work in a thread of its own for as long as a `with` block runs."""

import threading
from types import TracebackType
from typing import Self


class Beside:
    """`_run` goes on until `_stop` is set, which the end of the block does before it waits."""

    def __init__(self) -> None:
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

    def _run(self) -> None:
        raise NotImplementedError
