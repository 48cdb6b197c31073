"""All secrets of a running fleet, and everywhere that they might have leaked to."""

import asyncio
import base64
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nats
from nacl.signing import SigningKey
from nats.aio.client import Client
from nats.aio.msg import Msg

from kakuremichi.bus import jwt
from kakuremichi.bus.jwt import Signer
from kakuremichi.bus.nkey import public_text, read_seed
from kakuremichi.fleet.lab_fleet import Fleet
from kakuremichi.runtime.files import write_atomically
from kakuremichi.runtime.tls import client_context
from kakuremichi.wire.enrolment import parse_join_token
from kakuremichi.wire.signing import verify_key

_PEM_KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----\s(.+?)-----END PRIVATE KEY-----", re.DOTALL)
_NKEY_SEED = re.compile(rb"\bS[UAOP][A-Z2-7]{56}\b")


@dataclass(frozen=True)
class Secret:
    """Some private bytes in all forms in which they could be written, and the files that may hold them."""

    name: str
    forms: tuple[bytes, ...]
    allowed: frozenset[Path] = frozenset()

    def __repr__(self) -> str:
        return f"Secret({self.name})"


def raw_secret(name: str, raw: bytes, *allowed: Path) -> Secret:
    plain = base64.b64encode(raw)
    forms = (raw, raw.hex().encode(), raw.hex().upper().encode(), plain, plain.rstrip(b"="),
             base64.urlsafe_b64encode(raw).rstrip(b"="))  # fmt: skip
    return Secret(name, tuple(dict.fromkeys(forms)), frozenset(allowed))


def secrets_of(fleet: Fleet, names: Iterable[str]) -> list[Secret]:
    """Of the control plane and of these nodes; WireGuard's come from the engines, as they are nowhere else."""
    control, found = fleet.control.directory, []
    for path in [*control.rglob("*.seed"), *control.rglob("*.creds"), *(fleet.directory / "nodes").rglob("*.seed")]:
        text = path.read_bytes().strip()
        if re.fullmatch(rb"[0-9a-f]{64}", text):
            found.append(raw_secret(str(path.relative_to(fleet.directory)), bytes.fromhex(text.decode()), path))
        found += [Secret(str(path.name), (seed,), frozenset({path})) for seed in _NKEY_SEED.findall(text)]
    for path in [*control.rglob("*.key"), *fleet.directory.rglob("*.pem")]:
        for body in _PEM_KEY.findall(path.read_bytes()):
            found.append(Secret(str(path.name), (body.strip().splitlines()[0],), frozenset({path})))
    admin = fleet.control.token_file
    found.append(Secret("admin token", (admin.read_bytes().strip(),), frozenset({admin})))
    for name in names:
        found.append(raw_secret(f"WireGuard key of {name}", wireguard_key(fleet.node_host(name).interface)))
        file = fleet.node_host(name).directory / "join-token"
        found.append(Secret(f"join token of {name}", (file.read_bytes(),), frozenset({file})))
        found.append(raw_secret(f"join secret of {name}", parse_join_token(file.read_text()).secret))
    return found


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


def processes_of(pids: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Command lines and environments of these processes and of all their children."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
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


def account_files(fleet: Fleet) -> tuple[Path, Path, Path]:
    """The JWTs of SYS, CP and EDGE."""
    operator = fleet.control.directory / "nats-operator"
    return operator / "SYS.jwt", operator / "CP.jwt", operator / "registry" / "EDGE.jwt"


class Spies:
    """A subscriber to `>` in each account of the fleet's NATS, which no role of ours could be.

    An unscoped signing key is written into the accounts before the server starts: only who holds the operator could.
    """

    def __init__(self, signer: Signer) -> None:
        self.heard, self._signer = bytearray(), signer
        self._clients: list[Client] = []

    @classmethod
    def admit(cls, fleet: Fleet) -> Signer:
        """After `prepare`, before the server runs: the key with which spies are let in."""
        signer = Signer("account", SigningKey.generate())
        operator, conf = fleet.control.directory / "nats-operator", fleet.control.directory / "nats.conf"
        seed = read_seed("operator", (operator / "registry" / "accounts.seed").read_text().strip())
        text = conf.read_text()
        for path in account_files(fleet):
            old = path.read_text().strip()
            claims = jwt.read(old)
            keys = [*claims.nats.get("signing_keys", []), signer.public]
            new = jwt.sign(
                Signer("operator", seed), claims.subject, claims.name, {**claims.nats, "signing_keys": keys},
                now=claims.issued_at + 1,
            )  # fmt: skip
            assert old in text
            text = text.replace(old, new)
            write_atomically(path, new.encode())
        write_atomically(conf, text.encode())
        return signer

    async def listen(self, fleet: Fleet) -> None:
        tls = client_context(fleet.control.ca_file)
        for path in account_files(fleet):
            account, key = jwt.read(path.read_text().strip()).subject, SigningKey.generate()
            everything = {"allow": [">"]}
            claims = {
                "type": "user", "version": 2, "issuer_account": account, "subs": -1, "data": -1, "payload": -1,
                "pub": everything, "sub": everything,
            }  # fmt: skip
            token = jwt.sign(self._signer, public_text("user", verify_key(key)), "spy", claims)
            with fleet.lab.in_namespace("control"):
                client = await nats.connect(
                    "tls://127.0.0.1:4222", tls=tls, tls_handshake_first=True, user_jwt_cb=token.encode,
                    signature_cb=lambda nonce, key=key: base64.b64encode(key.sign(nonce.encode()).signature),
                    allow_reconnect=False, connect_timeout=10,
                )  # fmt: skip
            await client.subscribe(">", cb=self._take)
            await client.flush()
            self._clients.append(client)

    async def _take(self, message: Msg) -> None:
        for part in (message.subject.encode(), str(message.headers or "").encode(), message.data):
            self.heard += part + b"\n"

    async def publish(self, subject: str, data: bytes) -> None:
        for client in self._clients[1:]:
            await client.publish(subject, data)
            await client.flush()
        await asyncio.sleep(0.1)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


class Wire:
    """Everything that crosses the control host's network, as tcpdump would see it. At most 64 MB."""

    def __init__(self, fleet: Fleet) -> None:
        with fleet.lab.in_namespace("control"):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setblocking(False)
        self.heard = bytearray()
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._take)

    def _take(self) -> None:
        try:
            data, source = self._socket.recvfrom(65536)
        except BlockingIOError:
            return
        if source[0] != "lo" and len(self.heard) < 64 << 20:
            self.heard += data

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
