"""What a lab wrote down about itself before it made anything, so that only that is ever removed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

RUN = Path("/run/kakuremichi-lab")


class Owner(msgspec.Struct, frozen=True):
    """The process a lab ends with. The start time tells it from a later process of the same pid."""

    pid: int
    start_time: int


class Record(msgspec.Struct, frozen=True):
    namespaces: tuple[str, ...]
    foreign: bool
    ready: bool = False
    owner: Owner | None = None  # None: it stays until somebody takes it down


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since boot (/proc/PID/stat, field 22); None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything, blanks and brackets too
    return None if fields[0] in "ZX" else int(fields[19])


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(pid, start_time(pid) or 0)


def orphaned(record: Record) -> bool:
    return record.owner is not None and start_time(record.owner.pid) != record.owner.start_time


def read(prefix: str) -> Record | None:
    try:
        return msgspec.json.decode(_path(prefix).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None  # half a record is no record: it was never renamed into place


def write(prefix: str, record: Record) -> None:
    fresh = _path(prefix).with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.rename(_path(prefix))


def erase(prefix: str) -> None:
    _path(prefix).unlink(missing_ok=True)


def prefixes() -> tuple[str, ...]:
    """The prefixes that have a record, living or not."""
    return tuple(sorted(f"{path.stem}-" for path in RUN.glob("*.json")))


@contextmanager
def locked() -> Iterator[None]:
    """One builder at a time on this machine, across processes. The lock ends with the process that holds it."""
    RUN.mkdir(exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _path(prefix: str) -> Path:
    return RUN / f"{prefix.removesuffix('-')}.json"
