"""What to do with a feed item or a head, given how far this node has come. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from kakuremichi.model.ids import LogId
from kakuremichi.wire.records import FeedItem, Head


@dataclass(frozen=True, slots=True)
class Cursor:
    log_id: LogId
    feed_seq: int
    hash: bytes  # SHA-256 of the item at feed_seq, zeros before the first


class Verdict(Enum):
    APPLY = auto()
    DROP = auto()  # already applied: NATS delivers at least once
    RESYNC = auto()  # a gap or a fork: only a snapshot can tell
    NEW_LOG = auto()  # another history: only a statement of the trust keys can open it


def judge_item(cursor: Cursor, item: FeedItem) -> Verdict:
    if item.log_id != cursor.log_id:
        return Verdict.NEW_LOG
    if item.feed_seq <= cursor.feed_seq:
        return Verdict.DROP
    if item.feed_seq == cursor.feed_seq + 1 and item.prev_hash == cursor.hash:
        return Verdict.APPLY
    return Verdict.RESYNC


class HeadVerdict(Enum):
    CURRENT = auto()
    BEHIND = auto()  # items are on their way, or lost: a resync if it lasts
    ROLLBACK = auto()  # the log says less than it said before: alarm, change nothing
    DIFFERENT = auto()  # the same place, another content: resync, then alarm
    NEW_LOG = auto()


def judge_head(cursor: Cursor, total: int, head: Head) -> HeadVerdict:
    """`total` is the sum over the records that this node holds at `cursor`."""
    if head.log_id != cursor.log_id:
        return HeadVerdict.NEW_LOG
    if head.feed_seq > cursor.feed_seq:
        return HeadVerdict.BEHIND
    if head.feed_seq < cursor.feed_seq:
        return HeadVerdict.ROLLBACK
    if head.hash != cursor.hash or int.from_bytes(head.sum, "big") != total:
        return HeadVerdict.DIFFERENT
    return HeadVerdict.CURRENT
