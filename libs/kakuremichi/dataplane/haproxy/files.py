"""The files in HAProxy's private directory: where they are, and how they are written."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def routes(self) -> Path:
        return self.directory / "routes.map"

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
    """What HAProxy reads when it starts: configuration with the servers, and the route map."""

    config: str
    routes: str


def save(layout: Layout, files: Files) -> None:
    """Write both, each whole or not at all. Blocking: call it in a thread.

    HAProxy may be restarted between the two renames. Neither mixture can send a visitor to a stranger's
    servers, because a backend number gets a new owner only after files without the old one were saved.
    """
    layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(layout.routes, files.routes)
    write_whole(layout.config, files.config)


def load(layout: Layout) -> Files | None:
    """The files as they were last saved; None before the first time."""
    try:
        return Files(layout.config.read_text(), layout.routes.read_text())
    except FileNotFoundError:
        return None


def write_whole(path: Path, text: str) -> None:
    """Replace `path` in one step, so that no reader ever sees half of it (mode 0600)."""
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
