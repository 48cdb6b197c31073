"""A user's credentials as a file: JWT and seed between marks, the form that NATS' own tools read and write."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from nacl.signing import SigningKey

from kakuremichi.bus.connection import Credentials
from kakuremichi.bus.nkey import NkeyRefusedError, read_seed, seed_text
from kakuremichi.bus.port import BusError

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END USER NKEY SEED-+")


class CredentialsFileError(BusError):
    """The file cannot be read as credentials; a sentence that names it and shows nothing of it."""


def credentials_text(jwt: str, key: SigningKey) -> str:
    """What the file holds: a secret, mode 0600."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed_text('user', key)}\n------END USER NKEY SEED------\n"
    )


def read_credentials(path: Path) -> Credentials:
    """The credentials in `path`; :class:`CredentialsFileError` if there are none."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsFileError(f"{path}: cannot be read ({error})") from error
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise CredentialsFileError(f"{path}: a user JWT and a user seed between their marks are needed")
    try:
        return own_credentials(jwt.group(1), read_seed("user", seed.group(1)))
    except NkeyRefusedError as error:
        raise CredentialsFileError(f"{path}: {error}") from error


def own_credentials(jwt: str, key: SigningKey) -> Credentials:
    """To show `jwt` and prove the key that it names."""
    return Credentials(jwt, lambda nonce: key.sign(nonce).signature)


def credentials_of(path: Path) -> Callable[[], Awaitable[Credentials]]:
    """Read anew at each connection, so that an exchanged file counts from the next one on."""

    async def credentials() -> Credentials:
        return read_credentials(path)

    return credentials
