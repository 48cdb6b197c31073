"""A subscriber to `>` in each account of a fleet's NATS, which no role of ours could be."""

import asyncio
import base64
from functools import partial
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
from kakuremichi.wire.signing import verify_key


def account_files(fleet: Fleet) -> dict[str, Path]:
    """The JWT of each account."""
    operator = fleet.control.directory / "nats-operator"
    return {"SYS": operator / "SYS.jwt", "CP": operator / "CP.jwt", "EDGE": operator / "registry" / "EDGE.jwt"}


class Spies:
    """What each account's spy has heard.

    An unscoped signing key is written into the accounts before the server starts: only who holds the operator could.
    """

    def __init__(self, signer: Signer) -> None:
        self.heard: dict[str, bytearray] = {}
        self._signer = signer
        self._clients: dict[str, Client] = {}

    @classmethod
    def admit(cls, fleet: Fleet) -> Signer:
        """After `prepare`, before the server runs: the key with which spies are let in."""
        signer = Signer("account", SigningKey.generate())
        operator, conf = fleet.control.directory / "nats-operator", fleet.control.directory / "nats.conf"
        seed = read_seed("operator", (operator / "registry" / "accounts.seed").read_text().strip())
        text = conf.read_text()
        for path in account_files(fleet).values():
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
        for name, path in account_files(fleet).items():
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
            self.heard[name], self._clients[name] = bytearray(), client
            await client.subscribe(">", cb=partial(self._take, self.heard[name]))
            await client.flush()

    async def _take(self, heard: bytearray, message: Msg) -> None:
        for part in (message.subject.encode(), str(message.headers or "").encode(), message.data):
            heard += part + b"\n"

    async def publish(self, subject: str, data: bytes) -> None:
        """In every account; returns once every spy has heard it."""
        for client in self._clients.values():
            await client.publish(subject, data)
        async with asyncio.timeout(10):
            while not all(data in heard for heard in self.heard.values()):  # noqa: ASYNC110  (a server is in between)
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
