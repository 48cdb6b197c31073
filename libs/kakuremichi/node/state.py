"""What a node keeps on disk: who it is and whom it trusts. The WireGuard private key is not among it."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from nacl.signing import SigningKey

from kakuremichi.model.keys import PrivateKey
from kakuremichi.reconcile.verify import Verifier
from kakuremichi.runtime.files import write_atomically
from kakuremichi.wire.codec import WireError, decode, encode
from kakuremichi.wire.enrolment import EnrolmentAnswer
from kakuremichi.wire.identity import Announcement, Certificate, TrustSet
from kakuremichi.wire.requests import MOST_BEFORE
from kakuremichi.wire.signing import DeploymentId, Signed

T = TypeVar("T")


class StateError(Exception):
    """The state directory is not usable; a sentence that names the file."""


class Enrolment(Struct, frozen=True):
    """Who the node is: what enrolment answered, as it was signed."""

    answer: EnrolmentAnswer
    portal: str = ""  # where it enrolled, without the path: it renews its access to the bus there

    @property
    def deployment(self) -> DeploymentId:
        return DeploymentId(self.answer.deployment)

    @property
    def node(self) -> Certificate:
        """The certificate's content; :class:`WireError` if it is none."""
        return decode(self.answer.certificate.body, Certificate)

    def verifier(self) -> Verifier:
        """Opens what is signed, from the trust set that the join token pinned when it was saved."""
        verifier = Verifier(self.deployment, decode(self.answer.trust.body, TrustSet))
        verifier.certificate(self.answer.certificate, new=False)
        verifier.learn_feed_key(self.answer.feed_key, new=False)
        return verifier


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state directory of one node: 0700, every file in it 0600."""

    directory: Path

    def open(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.stat().st_uid != os.geteuid():
            raise StateError(f"{self.directory}: belongs to another user, the node's own is needed")

    def identity(self) -> SigningKey:
        """The node's Ed25519 identity, made at the first call and never sent."""
        return SigningKey(self._seed("identity.seed"))

    def sealing_key(self) -> PrivateKey:
        """The X25519 key to which secrets may be sealed for this node."""
        return PrivateKey(self._seed("sealing.seed"))

    def boot_id(self) -> bytes:
        """16 bytes that change with every boot of the host."""
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))

    def enrolment(self) -> Enrolment | None:
        return self._read("enrolment", Enrolment)

    def newest(self, enrolment: Enrolment) -> Enrolment:
        """`enrolment` with the certificate that it has by now."""
        return self.enrolment() or enrolment

    def save_enrolment(self, enrolment: Enrolment) -> None:
        write_atomically(self.directory / "enrolment", encode(enrolment))

    def bus_jwt(self) -> str:
        """The newest JWT for the bus, "" if there is none but that of the enrolment. Of no use without the identity."""
        path = self.directory / "bus.jwt"
        return path.read_text(encoding="ascii", errors="replace") if path.exists() else ""

    def save_bus_jwt(self, text: str) -> None:
        write_atomically(self.directory / "bus.jwt", text.encode())

    def ca_file(self) -> Path | None:
        """The deployment's own CA, pinned by the join token; None: the certificates of a public one count."""
        path = self.directory / "ca.pem"
        return path if path.exists() else None

    def save_ca(self, pem: bytes) -> None:
        write_atomically(self.directory / "ca.pem", pem)

    @property
    def join_token_file(self) -> Path:
        """Where a join token waits to be used."""
        return self.directory / "join-token"

    def save_join_token(self, text: str) -> None:
        write_atomically(self.join_token_file, text.encode())

    def forget_join_token(self) -> None:
        self.join_token_file.unlink(missing_ok=True)

    def announcement(self) -> tuple[Signed, Announcement] | None:
        """The last announcement that was made, accepted or not: its epoch is never used again."""
        signed = self._read("announcement", Signed)
        return None if signed is None else (signed, decode(signed.body, Announcement))

    def before(self) -> tuple[Signed, ...]:
        """The announcements that were made before the last one, newest first: they prove that it is this node's."""
        last = self._read("announcement", Signed)
        kept = self._read("announcements", tuple[Signed, ...]) or ()
        return tuple(signed for signed in kept if signed != last)

    def save_announcement(self, signed: Signed) -> None:
        last = self._read("announcement", Signed)
        if last is not None and last != signed:
            write_atomically(self.directory / "announcements", encode((last, *self.before())[:MOST_BEFORE]))
        write_atomically(self.directory / "announcement", encode(signed))

    def feeds(self) -> Path:
        return self.directory / "feeds"

    def _seed(self, name: str) -> bytes:
        path = self.directory / name
        if not path.exists():
            write_atomically(path, secrets.token_bytes(32).hex().encode())
        try:
            return bytes.fromhex(path.read_text())
        except ValueError as error:
            raise StateError(f"{path}: not 64 hexadecimal digits; restore it, or enrol the node anew") from error

    def _read(self, name: str, kind: type[T]) -> T | None:
        path = self.directory / name
        if not path.exists():
            return None
        try:
            return decode(path.read_bytes(), kind, name=str(path))
        except WireError as error:
            raise StateError(f"{error}; restore it, or enrol the node anew") from error
