"""What nodes ask and report, and the answers. Nodes send strictly decoded structs."""

from typing import Annotated

from msgspec import Meta, Struct

from kakuremichi.model.ids import LogId, NodeIdField
from kakuremichi.wire.signing import Signed

MOST_BEFORE = 8  # announcements that may have been made in vain, one after the other

Text = Annotated[str, Meta(max_length=512)]


class Request(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Base of what nodes send."""


class Answer(Struct, frozen=True, kw_only=True, array_like=True):
    """Base of what the control plane answers: read tolerantly."""


class Announce(Request, frozen=True, kw_only=True, tag="announce.v1"):
    announcement: Signed


class AnnounceAfter(Request, frozen=True, kw_only=True, tag="announce.v2"):
    """An announcement with those that the node made before it, newest first: they lead back to an accepted one."""

    announcement: Signed
    before: Annotated[tuple[Signed, ...], Meta(max_length=MOST_BEFORE)]


AnyAnnounce = Announce | AnnounceAfter


class KeyAccepted(Answer, frozen=True, kw_only=True, tag="key-accepted.v1"):
    epoch: int


class KeyRefused(Answer, frozen=True, kw_only=True, tag="key-refused.v1"):
    # malformed, zero-key, low-order, not-newer, held, quarantined, bad-signature, unknown-node, unavailable
    code: str
    detail: str
    epoch: int = 0  # not-newer: the epoch to exceed


class SnapshotRequest(Request, frozen=True, kw_only=True, tag="snapshot.v1"):
    feed: Text
    after: Text = ""  # "kind/key" of the last record that is held; "" is from the start
    limit_bytes: Annotated[int, Meta(ge=1024, le=60000)] = 60000


class SnapshotPage(Answer, frozen=True, kw_only=True, tag="snapshot-page.v1"):
    """Live items of a feed in key order. Pages may be of different moments; `head` is that of this page's moment."""

    feed: str
    feed_key: Signed  # FeedKeyCertificate
    head: Signed  # Head
    items: tuple[Signed, ...]  # FeedItem
    next_after: str  # "" on the last page


class SnapshotRefused(Answer, frozen=True, kw_only=True, tag="snapshot-refused.v1"):
    code: str
    detail: str
    retry_after_ms: int = 0


class Renew(Request, frozen=True, kw_only=True, tag="renew.v1"):
    """New credentials of the bus, please. Who asks is told by the subject, which the server lets nobody else use."""


class Renewed(Answer, frozen=True, kw_only=True, tag="renewed.v1"):
    jwt: str


class RenewCertificate(Request, frozen=True, kw_only=True, tag="renew-certificate.v1"):
    """The node's next certificate, please: the one it has ends in some time."""


AnyRenew = Renew | RenewCertificate


class CertificateRenewed(Answer, frozen=True, kw_only=True, tag="certificate-renewed.v1"):
    """The next certificate. It counts from the first announcement that goes with it."""

    certificate: Signed


class CertificateWaiting(Answer, frozen=True, kw_only=True, tag="certificate-waiting.v1"):
    """Trust keys that lie elsewhere have yet to sign it."""


class RenewalRefused(Answer, frozen=True, kw_only=True, tag="renewal-refused.v1"):
    code: str  # malformed, unknown-node, quarantined, not-due, unavailable
    detail: str


class Cursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    feed: Text
    log_id: LogId
    feed_seq: Annotated[int, Meta(ge=0)]


class ItemError(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why one record is not applied although its cursor moved."""

    feed: Text
    key: Text  # "kind/key"
    message: Text


class Timing(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One applied item; microseconds since it was received."""

    feed: Text
    feed_seq: int
    decided_us: int
    applied_us: int


class Report(Request, frozen=True, kw_only=True, tag="report.v1"):
    """Not a fact: how far a node has come. Sent when a cursor or an error changes and every 30 s."""

    node_id: NodeIdField
    boot_id: bytes
    version: Text
    tags: Annotated[tuple[Text, ...], Meta(max_length=64)]  # record tags that it understands
    cursors: Annotated[tuple[Cursor, ...], Meta(max_length=8)]
    errors: Annotated[tuple[ItemError, ...], Meta(max_length=64)] = ()
    timings: Annotated[tuple[Timing, ...], Meta(max_length=32)] = ()
    networks: Annotated[tuple[Text, ...], Meta(max_length=128)] = ()
    held: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    warnings: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()


class TimedReport(Report, frozen=True, kw_only=True, tag="report.v2"):
    """The same, with when each of `timings` was received: by durations only, as clocks of nodes may be wrong."""

    ages_us: Annotated[tuple[int, ...], Meta(max_length=32)] = ()  # from each receipt until this report was made


AnyReport = Report | TimedReport


class ReportAnswer(Answer, frozen=True, kw_only=True, tag="report-answer.v1"):
    heads: tuple[Signed, ...]  # Head of each of the node's feeds
