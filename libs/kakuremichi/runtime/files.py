"""Files that survive a crash: written beside, synced, renamed; and two generations with a checksum."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"kakuremichi-file/v1\n"
_DIGEST_BYTES = 32
_HEADER_BYTES = len(_MAGIC) + 8 + _DIGEST_BYTES


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`: after a crash it holds the old bytes or the new ones, never a part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _replacing(path, beside, os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)) as file:
        file.write(data)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, for its owner alone; it is `path` once all is on the disk. Raises OSError.

    What a killed writer left beside is overwritten by the next one, so there may be one writer at a time.
    """
    beside = path.with_name(f".{path.name}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with _replacing(path, beside, descriptor) as file:
        yield file


@contextmanager
def _replacing(path: Path, beside: Path, descriptor: int) -> Iterator[BinaryIO]:
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.absolute().parent)


def append_private(path: Path, data: bytes) -> None:
    """Append in one system call, to a file that its owner alone may read. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def write_generation(path: Path, data: bytes) -> None:
    """Write `data` as the newest generation of `path` and keep the one before as `<path>.old`.

    The newest is moved aside only while it is sound: a corrupt file never displaces the last good one.
    """
    (newest, _), (older, _) = _read(path), _read(_old(path))
    if newest > older:
        path.replace(_old(path))
    generation = max(newest, older)
    number = (generation + 1).to_bytes(8, "big")
    digest = hashlib.sha256(number + data).digest()
    write_atomically(path, _MAGIC + number + digest + data)


def read_newest(path: Path) -> bytes | None:
    """The newest sound generation of `path`, or None if there is none. Never other bytes than were written."""
    generation, data = max(_read(path), _read(_old(path)), key=lambda found: found[0])
    return data if generation else None


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _read(path: Path) -> tuple[int, bytes]:
    """Generation and data; generation 0 for what is absent or not whole."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return 0, b""
    if len(raw) < _HEADER_BYTES or not raw.startswith(_MAGIC):
        return 0, b""
    number, digest, data = (
        raw[len(_MAGIC) :][:8],
        raw[_HEADER_BYTES - _DIGEST_BYTES : _HEADER_BYTES],
        raw[_HEADER_BYTES:],
    )
    if hashlib.sha256(number + data).digest() != digest:
        return 0, b""
    return int.from_bytes(number, "big"), data


def sync_folder(folder: Path) -> None:
    """Bring what was renamed in `folder` to the disk: else the rename may be missing after a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
