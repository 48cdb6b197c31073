"""What a write says to which feed: records encoded once, here, and carried as bytes from then on. Pure."""

from typing import NamedTuple

from kakuremichi.wire.codec import encode
from kakuremichi.wire.records import AnyRecord, Gone, key_of


class Item(NamedTuple):
    """As the database's type kk_item takes it."""

    feed: str
    path: str  # kind/key: what a later item with the same path replaces
    gone: bool
    record: bytes


def put(feed: str, record: AnyRecord) -> Item:
    kind, key = key_of(record)
    return Item(feed, f"{kind}/{key}", isinstance(record, Gone), encode(record))


def gone(feed: str, kind: str, key: str) -> Item:
    return put(feed, Gone(kind=kind, key=key))
