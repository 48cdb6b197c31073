"""The keys of a deployment that lie on the server: trust keys say who is a peer, the feed key orders the feeds."""

import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nacl.signing import SigningKey

from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire import signing
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.identity import Certificate, FeedKeyCertificate, TrustSet
from kakuremichi.wire.signing import DEPLOYMENT_ID_BYTES, DeploymentId, Signed, verify_key

T = TypeVar("T")

DAY_S = 86400
CERTIFICATE_DAYS = 400
FEED_KEY_DAYS = 4000  # narrower than a trust key anyway, and its end would stop every new node at once
CLOCK_SLACK_S = 300


class TrustError(Exception):
    """The folder of the trust keys is not usable; a sentence that names the file."""


@dataclass(frozen=True)
class Trust:
    """What signs. `trust_set` and `feed_certificate` are public and go to every node."""

    deployment: DeploymentId
    trust_set: Signed
    feed_certificate: Signed
    trust_keys: tuple[SigningKey, ...]
    feed_key: SigningKey

    def __repr__(self) -> str:
        return f"Trust({self.deployment.hex()})"  # and no key

    @property
    def members(self) -> TrustSet:
        return decode(self.trust_set.body, TrustSet)

    @property
    def offline(self) -> bool:
        """Whether people sign certificates elsewhere: the keys here are too few to do it."""
        return len(self.trust_keys) < self.members.threshold

    def certify(self, certificate: Certificate) -> Signed:
        return signing.sign(signing.CERTIFICATE, self.deployment, encode(certificate), *self.trust_keys)


def valid_from(now: float) -> tuple[int, int]:
    """(not_before, not_after) of a certificate made at `now`, in Unix seconds."""
    return int(now) - CLOCK_SLACK_S, int(now) + CERTIFICATE_DAYS * DAY_S


def init_trust(directory: Path) -> Trust:
    """Make the deployment's keys in `directory` if there are none yet, and open them."""
    if (directory / "trust-set").exists():
        return open_trust(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    deployment = DeploymentId(secrets.token_bytes(DEPLOYMENT_ID_BYTES))
    trust_key, feed_key = SigningKey.generate(), SigningKey.generate()
    now = int(time.time())
    certificate = FeedKeyCertificate(
        key=verify_key(feed_key), serial=1, not_before=now - CLOCK_SLACK_S, not_after=now + FEED_KEY_DAYS * DAY_S
    )
    trust_set = TrustSet(version=1, keys=(verify_key(trust_key),), threshold=1)
    write_atomically(directory / "deployment", deployment.hex().encode())
    write_atomically(directory / "trust.seed", bytes(trust_key).hex().encode())
    write_atomically(directory / "feed.seed", bytes(feed_key).hex().encode())
    write_atomically(
        directory / "feed-key", encode(signing.sign(signing.FEED_KEY, deployment, encode(certificate), trust_key))
    )
    # Last: its presence says that the folder is complete.
    write_atomically(
        directory / "trust-set", encode(signing.sign(signing.TRUST_SET, deployment, encode(trust_set), trust_key))
    )
    return open_trust(directory)


def open_trust(directory: Path) -> Trust:
    """Read the keys; :class:`TrustError` if a file is missing, readable by others, or does not belong to the rest."""
    deployment = _hex(directory / "deployment", DEPLOYMENT_ID_BYTES)
    trust = Trust(
        deployment=DeploymentId(deployment),
        trust_set=_message(directory / "trust-set", Signed),
        feed_certificate=_message(directory / "feed-key", Signed),
        trust_keys=(_seed(directory / "trust.seed"),) if (directory / "trust.seed").exists() else (),
        feed_key=_seed(directory / "feed.seed"),
    )
    keys = decode(trust.trust_set.body, TrustSet)
    signing.verify(signing.TRUST_SET, trust.deployment, trust.trust_set, frozenset(keys.keys), threshold=keys.threshold)
    if trust.trust_keys and verify_key(trust.trust_keys[0]) not in keys.keys:
        raise TrustError(f"{directory / 'trust.seed'}: not a key of the trust set beside it")
    if decode(trust.feed_certificate.body, FeedKeyCertificate).key != verify_key(trust.feed_key):
        raise TrustError(f"{directory / 'feed.seed'}: not the key that the certificate beside it is for")
    return trust


def _seed(path: Path) -> SigningKey:
    if path.exists() and path.stat().st_mode & 0o077:
        raise TrustError(f"{path}: readable by others; chmod 600 it, and consider the key known")
    return SigningKey(_hex(path, 32))


def _hex(path: Path, size: int) -> bytes:
    try:
        raw = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise TrustError(
            f"{path}: cannot be read as hexadecimal digits ({os.strerror(getattr(error, 'errno', 0) or 22)})"
        ) from error
    if len(raw) != size:
        raise TrustError(f"{path}: {len(raw)} bytes, {size} are needed")
    return raw


def _message(path: Path, kind: type[T]) -> T:
    try:
        return decode(path.read_bytes(), kind, name=str(path))
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from error
    except WireError as error:
        raise TrustError(str(error)) from error


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kakuremichi_registry.trust DIRECTORY")
    try:
        init_trust(Path(sys.argv[1]))
    except (TrustError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
