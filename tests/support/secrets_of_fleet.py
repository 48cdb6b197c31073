"""All secrets of a running fleet, and everywhere that they might have leaked to."""

import base64
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kakuremichi.bus.nkey import Kind, read_seed
from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.wire.enrolment import parse_join_token

_PEM_KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----\s.+?-----END PRIVATE KEY-----", re.DOTALL)
_NKEY_SEED = re.compile(rb"\bS[UAO][A-Z2-7]{56}\b")
_KINDS: dict[bytes, Kind] = {b"U": "user", b"A": "account", b"O": "operator"}
# Where a program may leave a file without having been told to.
_ANYWHERE = tuple(map(Path, ("/tmp", "/var", "/run", "/dev/shm", "/root", "/home", "/etc", "/srv")))  # noqa: S108


@dataclass(frozen=True)
class Secret:
    """Some private bytes in all forms in which they could be written, and the files that may hold them."""

    name: str
    forms: tuple[bytes, ...]
    allowed: frozenset[Path] = frozenset()

    def __repr__(self) -> str:
        return f"Secret({self.name})"


def raw_secret(name: str, raw: bytes, *allowed: Path) -> Secret:
    """32 bytes as they are, in hexadecimal, and in base64, also in the middle of something longer in base64."""
    forms = (raw, raw.hex().encode(), raw.hex().upper().encode(), *_inside_base64(raw))
    return Secret(name, tuple(dict.fromkeys(forms)), frozenset(allowed))


def text_secret(name: str, text: bytes, *allowed: Path) -> Secret:
    """A secret that is written as text, and the same text inside something in base64."""
    return Secret(name, tuple(dict.fromkeys((text, *_inside_base64(text)))), frozenset(allowed))


def _inside_base64(raw: bytes) -> Iterator[bytes]:
    """The characters that depend on `raw` alone, at each of the three places where base64 may cut it."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw)
        bits = 8 * (before + len(raw))
        whole = text[(8 * before + 5) // 6 : bits // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def secrets_of(fleet: Fleet, names: Iterable[str]) -> list[Secret]:
    """Of the control plane and of these nodes; WireGuard's come from the engines, as they are nowhere else."""
    control = fleet.control.directory
    found: list[Secret] = []
    for path in [*control.rglob("*.seed"), *control.rglob("*.creds"), *(fleet.directory / "nodes").rglob("*.seed")]:
        found += seeds_in(str(path.relative_to(fleet.directory)), path)
    for path in [*control.rglob("*.key"), *fleet.directory.rglob("*.pem")]:
        found += pem_keys_in(path)
    admin = fleet.control.token_file
    found.append(text_secret("admin token", admin.read_bytes().strip(), admin))
    for name in names:
        found.append(raw_secret(f"WireGuard key of {name}", wireguard_key(fleet.node_host(name).interface)))
    for name, token in fleet.join_tokens.items():  # used up by now, so their files are gone
        found.append(text_secret(f"join token of {name}", token.encode()))
        found.append(raw_secret(f"join secret of {name}", parse_join_token(token).secret))
    return found


def seeds_in(name: str, path: Path) -> Iterator[Secret]:
    """Ed25519 seeds, as 64 hexadecimal digits or as nkeys; of those also the 32 bytes inside."""
    text = path.read_bytes().strip()
    if re.fullmatch(rb"[0-9a-f]{64}", text):
        yield raw_secret(name, bytes.fromhex(text.decode()), path)
    for seed in _NKEY_SEED.findall(text):
        yield text_secret(name, seed, path)
        yield raw_secret(f"{name}, its bytes", bytes(read_seed(_KINDS[seed[1:2]], seed.decode())), path)


def pem_keys_in(path: Path) -> Iterator[Secret]:
    """Private keys of TLS: the line of their text that has most of it, and the number itself."""
    for pem in _PEM_KEY.findall(path.read_bytes()):
        yield text_secret(path.name, pem.split()[4], path)
        key = load_pem_private_key(pem, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        yield raw_secret(f"{path.name}, its number", key.private_numbers().private_value.to_bytes(32, "big"), path)


def wireguard_key(interface: str) -> bytes:
    """Asked of wireguard-go over its socket, which is root's alone."""
    with socket.socket(socket.AF_UNIX) as uapi:
        uapi.connect(f"/var/run/wireguard/{interface}.sock")
        uapi.sendall(b"get=1\n\n")
        text = b""
        while b"\n\n" not in text:
            text += uapi.recv(65536)
    return bytes.fromhex(re.search(rb"private_key=([0-9a-f]{64})", text)[1].decode())  # type: ignore[index]


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                yield path, path.read_bytes()
            except FileNotFoundError:
                continue  # PostgreSQL and NATS remove theirs as they like


def files_elsewhere(since: float, *but: Path) -> Iterator[tuple[Path, bytes]]:
    """Files of the whole machine that were made or changed after `since` (Unix seconds), outside these folders.

    What others write meanwhile is read too: it does no harm, as it holds other secrets.
    """
    for top in _ANYWHERE:
        for folder, below, names in os.walk(top):
            below[:] = [name for name in below if Path(folder, name) not in but]
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_ctime >= since:
                        yield path, path.read_bytes()
                except OSError:
                    continue


def database_dump(postgres_pid: int, dsn: str) -> bytes:
    """Every database and role, by the program that people take their backups with."""
    program = Path(f"/proc/{postgres_pid}/exe").readlink().with_name("pg_dumpall")
    return subprocess.run([program, "--dbname", dsn], check=True, capture_output=True, timeout=60).stdout


def processes_of(pids: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Command lines and environments of these processes and of all their children."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    ours = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in sorted(ours):
        for what in ("cmdline", "environ"):
            try:
                yield f"{what} of {pid}", Path(f"/proc/{pid}/{what}").read_bytes()
            except OSError:
                continue


def leaks(secrets: Iterable[Secret], places: Iterable[tuple[str | Path, bytes]]) -> list[str]:
    """Where a secret is that has no business there."""
    known = list(secrets)
    return [
        f"{secret.name} in {place}"
        for place, content in places
        for secret in known
        if place not in secret.allowed and any(form in content for form in secret.forms)
    ]
