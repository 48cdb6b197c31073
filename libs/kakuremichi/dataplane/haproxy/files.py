"""The files in HAProxy's private directory: where they are, and how they are written."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kakuremichi.dataplane.haproxy.naming import RouteMap

_AUTHORITY = "authority-"
_PATH = re.compile(r"\A/[A-Za-z0-9._/-]{0,71}\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """`directory` is ours alone, mode 0700: who can open the sockets in it commands HAProxy."""

    directory: Path

    def __post_init__(self) -> None:
        # It stands in the configuration and in commands; the path of a socket has 107 bytes at most,
        # and HAProxy binds under a temporary name that is longer by some twenty.
        if not _PATH.match(str(self.directory)):
            raise ValueError(f"directory {self.directory}: an absolute path of 1 to 72 of A-Z a-z 0-9 . _ / and -")

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    def map(self, route_map: RouteMap) -> Path:
        return self.directory / f"{route_map}.map"

    def authority(self, digest: str) -> Path:
        """Certificates that a target is checked with."""
        return self.directory / f"{_AUTHORITY}{digest}.pem"

    @property
    def access_log(self) -> Path:
        """Datagram socket that reads the access log; HAProxy drops lines while nobody does."""
        return self.directory / "access.sock"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def master_socket(self) -> Path:
        return self.directory / "master.sock"

    @property
    def own_socket(self) -> Path:
        """Where the gateway itself answers under /.well-known/kakuremichi/."""
        return self.directory / "own.sock"

    @property
    def log(self) -> Path:
        return self.directory / "haproxy.log"

    @property
    def lock(self) -> Path:
        return self.directory / "holder.lock"


@dataclass(frozen=True, slots=True)
class Files:
    """What HAProxy reads when it starts: configuration with the servers, route maps, authorities by their digest."""

    config: str
    maps: Mapping[RouteMap, str] = field(default_factory=dict)
    authorities: Mapping[str, str] = field(default_factory=dict)


def save(layout: Layout, files: Files) -> None:
    """Write all, each whole or not at all, and only what has changed. Blocking: call it in a thread.

    HAProxy may be restarted between any two renames. No mixture can send a visitor to a stranger's servers, because
    a backend number gets a new owner only after files without the old one were saved; and none leads to a service
    without its rules, because the configuration comes before the maps.
    """
    layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for digest, pem in files.authorities.items():
        _write_if_other(layout.authority(digest), pem)
    _write_if_other(layout.config, files.config)
    for route_map in RouteMap:
        _write_if_other(layout.map(route_map), files.maps.get(route_map, ""))
    for digest in _authorities(layout).keys() - files.authorities.keys():
        layout.authority(digest).unlink(missing_ok=True)


def load(layout: Layout) -> Files | None:
    """The files as they were last saved; None before the first time."""
    if (config := _read(layout.config)) is None:
        return None
    maps = {route_map: _read(layout.map(route_map)) or "" for route_map in RouteMap}
    return Files(config, maps, _authorities(layout))


def _authorities(layout: Layout) -> dict[str, str]:
    found = layout.directory.glob(f"{_AUTHORITY}*.pem")
    return {path.stem.removeprefix(_AUTHORITY): path.read_text() for path in found}


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _write_if_other(path: Path, text: str) -> None:
    if _read(path) != text:
        write_whole(path, text)


def write_whole(path: Path, text: str) -> None:
    """Replace `path` in one step, so that no reader ever sees half of it (mode 0600)."""
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
