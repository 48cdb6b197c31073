"""The trust set that this keyring believes: the configured one, else the first that it sees."""

import hashlib

from kakuremichi.wire.signing import Signed
from kakuremichi_keyring.announcement import AnnouncementRefusedError


class TrustPin:
    """`digest` is the SHA-256 of the trust set's body, as in a join token; empty to take the first one."""

    def __init__(self, digest: bytes = b"") -> None:
        self._digest = digest

    def check(self, trust: Signed) -> None:
        digest = hashlib.sha256(trust.body).digest()
        if not self._digest:
            self._digest = digest
        if digest != self._digest:
            raise AnnouncementRefusedError(
                "unavailable", "registry: its trust set is not the one of this keyring; see KAKUREMICHI_TRUST_SHA256"
            )
