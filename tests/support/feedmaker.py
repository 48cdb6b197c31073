"""A registry's feed in memory, for tests: signs items, knows its head, answers snapshot pages."""

import hashlib
import time
from dataclasses import dataclass, field

from msgspec import Raw
from nacl.signing import SigningKey

from kakuremichi.model.ids import LogId
from kakuremichi.reconcile.holding import MODULUS
from kakuremichi.reconcile.verify import Verifier
from kakuremichi.wire import signing
from kakuremichi.wire.codec import encode
from kakuremichi.wire.identity import NO_HASH, FeedKeyCertificate, TrustSet
from kakuremichi.wire.records import AnyRecord, FeedItem, Gone, Head, key_of
from kakuremichi.wire.requests import SnapshotPage
from kakuremichi.wire.signing import DeploymentId, Signed, sign, verify_key

LOG = LogId("log-1")
DEPLOYMENT = DeploymentId(b"d" * 16)
TRUST_KEY = SigningKey(b"t" * 32)
FEED_KEY = SigningKey(b"f" * 32)
TRUST = TrustSet(version=1, keys=(verify_key(TRUST_KEY),), threshold=1)


def feed_key_certificate() -> Signed:
    now = int(time.time())
    body = FeedKeyCertificate(key=verify_key(FEED_KEY), serial=1, not_before=now - 60, not_after=now + 3600)
    return sign(signing.FEED_KEY, DEPLOYMENT, encode(body), TRUST_KEY)


def verifier() -> Verifier:
    made = Verifier(DEPLOYMENT, TRUST)
    made.learn_feed_key(feed_key_certificate())
    return made


@dataclass
class FeedMaker:
    feed: str = "feed.pool.main"
    log_id: LogId = LOG
    seq: int = 0
    hash: bytes = NO_HASH
    total: int = 0
    live: dict[tuple[str, str], tuple[int, Signed, bytes]] = field(default_factory=dict)
    sent: list[Signed] = field(default_factory=list)

    def write(self, record: AnyRecord) -> Signed:
        """One change: the item as it goes over the wire."""
        return self.write_raw(encode(record), key_of(record), gone=isinstance(record, Gone))

    def write_raw(self, record: bytes, key: tuple[str, str], *, gone: bool = False) -> Signed:
        """The same with a record that this program may not know."""
        self.seq += 1
        item = FeedItem(log_id=self.log_id, feed=self.feed, feed_seq=self.seq, prev_hash=self.hash, record=Raw(record))
        body = encode(item)
        self.hash = hashlib.sha256(body).digest()
        signed = sign(signing.FEED_ITEM, DEPLOYMENT, body, FEED_KEY)
        if old := self.live.pop(key, None):
            self.total -= int.from_bytes(old[2], "big")
        if not gone:
            self.live[key] = (self.seq, signed, self.hash)
            self.total += int.from_bytes(self.hash, "big")
        self.total %= MODULUS
        self.sent.append(signed)
        return signed

    def head(self) -> Signed:
        head = Head(
            log_id=self.log_id,
            feed=self.feed,
            feed_seq=self.seq,
            hash=self.hash,
            count=len(self.live),
            sum=self.total.to_bytes(32, "big"),
            at_ms=0,
        )
        return sign(signing.HEAD, DEPLOYMENT, encode(head), FEED_KEY)

    def page(self, after: str, size: int = 2) -> SnapshotPage:
        """`size` live records behind `after`, in key order, of this moment."""
        names = sorted("/".join(key) for key in self.live)
        chosen = [name for name in names if name > after][:size]
        last = bool(chosen) and chosen[-1] != names[-1]
        items = tuple(self.live[_key(name)][1] for name in chosen)
        return SnapshotPage(
            feed=self.feed,
            feed_key=feed_key_certificate(),
            head=self.head(),
            items=items,
            next_after=chosen[-1] if last else "",
        )


def _key(name: str) -> tuple[str, str]:
    kind, _, key = name.partition("/")
    return kind, key
