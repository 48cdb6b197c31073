"""A cpio archive ("newc", Documentation/driver-api/early-userspace/buffer-format.rst) for the kernel to start from."""

import stat
from collections.abc import Mapping


def archive(files: Mapping[str, bytes], folders: tuple[str, ...]) -> bytes:
    """Every file executable, no owner but root; folders before what lies in them."""
    entries = [_entry(name, stat.S_IFDIR | 0o755, b"", number) for number, name in enumerate(folders, 1)]
    first = len(folders) + 1
    entries += [
        _entry(name, stat.S_IFREG | 0o755, data, number) for number, (name, data) in enumerate(files.items(), first)
    ]
    return b"".join([*entries, _entry("TRAILER!!!", 0, b"", 0)])


def _entry(name: str, mode: int, data: bytes, number: int) -> bytes:
    path = name.encode() + b"\0"
    # inode mode uid gid links mtime size devmajor devminor rdevmajor rdevminor namesize check
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(head + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
