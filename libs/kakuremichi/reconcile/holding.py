"""What a node holds of one feed: the live records, where it stands, and what a snapshot may remove. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kakuremichi.reconcile.follow import Cursor
from kakuremichi.reconcile.verify import OpenedItem
from kakuremichi.wire.records import AnyRecord, Gone, Head, Revocation, UnknownRecord, decode_record, key_of
from kakuremichi.wire.signing import Signed

Key = tuple[str, str]  # (kind, key)
MODULUS = 2**256

# A resync that takes away more than this share and this number is held back until it is confirmed.
MASS_SHARE = 0.2
MASS_COUNT = 3
CONFIRM_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Held:
    feed_seq: int
    digest: bytes
    signed: Signed
    record: AnyRecord | UnknownRecord


@dataclass(frozen=True, slots=True)
class Change:
    """What a feed's desired state became: these keys are to be compared with what is really there."""

    keys: frozenset[Key]


NOTHING = Change(frozenset())


@dataclass
class Holding:
    feed: str
    cursor: Cursor | None = None
    live: dict[Key, Held] = field(default_factory=dict)
    withheld: dict[Key, Held] = field(default_factory=dict)  # gone by a snapshot, kept until confirmed
    withheld_since: float | None = None
    total: int = 0  # sum of the digests of the live items
    _unknown: dict[Key, str] = field(default_factory=dict)  # tags of the live records that this program does not know

    def desired(self, key: Key) -> AnyRecord | None:
        held = self.live.get(key) or self.withheld.get(key)
        return None if held is None or isinstance(held.record, UnknownRecord) else held.record

    def unsupported(self) -> tuple[str, ...]:
        """The tags among the live records that this program does not know."""
        return tuple(sorted(set(self._unknown.values())))

    def records(self) -> Iterable[tuple[Key, AnyRecord]]:
        """All desired records, the withheld ones included."""
        for key, held in {**self.withheld, **self.live}.items():
            if not isinstance(held.record, UnknownRecord):
                yield key, held.record

    def apply(self, opened: OpenedItem) -> Change:
        """Take one item that was judged APPLY; the cursor moves in every case."""
        item = opened.item
        self.cursor = Cursor(item.log_id, item.feed_seq, opened.digest)
        record = decode_record(bytes(item.record))
        key = key_of(record)
        old = self.live.get(key)
        if old is not None and old.feed_seq >= item.feed_seq:
            return NOTHING  # a later page of the snapshot brought something newer already
        self.withheld.pop(key, None)
        if isinstance(record, Gone):
            self._forget(key)
        else:
            self._hold(key, Held(item.feed_seq, opened.digest, opened.signed, record))
        return Change(frozenset({key}))

    def replace(self, head: Head, items: Iterable[OpenedItem], now: float) -> Change:
        """Take a whole snapshot: `head` is that of its first page, `items` those of all its pages."""
        fresh = self._newest(items)
        changed = {key for key, held in fresh.items() if not self._same(key, held)}
        removed = {key: held for key, held in {**self.withheld, **self.live}.items() if key not in fresh}
        before = len(self.live) + len(self.withheld)
        revoked = {held.record.node_id for held in fresh.values() if isinstance(held.record, Revocation)}
        loose = {key: held for key, held in removed.items() if key[1] not in revoked}
        self.live = dict(fresh)
        self._unknown = {key: held.record.tag for key, held in fresh.items() if isinstance(held.record, UnknownRecord)}
        self.total = sum(int.from_bytes(held.digest, "big") for held in fresh.values()) % MODULUS
        self.cursor = Cursor(head.log_id, head.feed_seq, head.hash)
        if len(loose) > MASS_COUNT and len(loose) > MASS_SHARE * before:
            self.withheld = loose
            self.withheld_since = now if self.withheld_since is None else self.withheld_since
            return Change(frozenset(changed | (removed.keys() - loose.keys())))
        self.withheld, self.withheld_since = {}, None
        return Change(frozenset(changed | removed.keys()))

    def confirm(self, now: float) -> Change:
        """A signed head agrees with what is held: after 30 s that releases a mass removal."""
        if self.withheld_since is None or now - self.withheld_since < CONFIRM_AFTER_S:
            return NOTHING
        return self.release()

    def release(self) -> Change:
        """Let the withheld removals happen."""
        keys = frozenset(self.withheld)
        self.withheld, self.withheld_since = {}, None
        return Change(keys)

    def comparable(self) -> bool:
        """Whether `total` is the sum at the cursor; after a snapshot of many moments it first has to catch up."""
        cursor = self.cursor
        return cursor is not None and all(held.feed_seq <= cursor.feed_seq for held in self.live.values())

    def _newest(self, items: Iterable[OpenedItem]) -> dict[Key, Held]:
        fresh: dict[Key, Held] = {}
        for opened in items:
            record = decode_record(bytes(opened.item.record))
            key = key_of(record)
            if key not in fresh or fresh[key].feed_seq < opened.item.feed_seq:
                fresh[key] = Held(opened.item.feed_seq, opened.digest, opened.signed, record)
        return fresh

    def _same(self, key: Key, held: Held) -> bool:
        mine = self.live.get(key) or self.withheld.get(key)
        return mine is not None and mine.digest == held.digest

    def _hold(self, key: Key, held: Held) -> None:
        self._forget(key)
        self.live[key] = held
        if isinstance(held.record, UnknownRecord):
            self._unknown[key] = held.record.tag
        self.total = (self.total + int.from_bytes(held.digest, "big")) % MODULUS

    def _forget(self, key: Key) -> None:
        old = self.live.pop(key, None)
        self._unknown.pop(key, None)
        if old is not None:
            self.total = (self.total - int.from_bytes(old.digest, "big")) % MODULUS


def positions(holdings: Mapping[str, Holding]) -> dict[str, Cursor]:
    """Where each feed stands, for the report."""
    return {feed: holding.cursor for feed, holding in holdings.items() if holding.cursor is not None}
