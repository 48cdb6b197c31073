"""Signatures of the feed key over what the log has fixed. Ed25519 is deterministic, so they are made at sending."""

from collections import OrderedDict

from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.records import Head
from kakuremichi.wire.signing import Signed
from kakuremichi_registry.trust import Trust

KEPT = 100_000  # signed items; the relay signs each once and the snapshots find it here


class Signer:
    """Signs items and heads. Items are remembered by their hash: a snapshot of 10,000 costs no signature twice."""

    def __init__(self, trust: Trust, *, kept: int = KEPT) -> None:
        self._trust, self._kept = trust, kept
        self._items: OrderedDict[bytes, Signed] = OrderedDict()

    @property
    def feed_certificate(self) -> Signed:
        return self._trust.feed_certificate

    def item(self, digest: bytes, body: bytes) -> Signed:
        """The signed item; `digest` is the SHA-256 of `body`."""
        signed = self._items.get(digest)
        if signed is None:
            signed = signing.sign(signing.FEED_ITEM, self._trust.deployment, body, self._trust.feed_key)
            self._items[digest] = signed
            if len(self._items) > self._kept:
                self._items.popitem(last=False)
        return signed

    def head(self, head: Head) -> Signed:
        return signing.sign(signing.HEAD, self._trust.deployment, encode(head), self._trust.feed_key)
