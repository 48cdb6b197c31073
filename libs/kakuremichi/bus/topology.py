"""Streams, accounts and roles as data: what nats-server is configured from, and what tests try to get around.

Three accounts. CP holds the control plane and JetStream; EDGE holds the nodes and no JetStream, because who may create
a consumer may read and send far more than meant. They meet in stream exports both ways. NATS services are not used:
through a service import a node could aim an answer of the registry at another node's feed. SYS is the server's own:
one user may hand in account JWTs there, which is how nodes are cut off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

MAX_PAYLOAD_BYTES = 65536
DAY_S = 24 * 3600
WEEK_S = 7 * DAY_S
MIB, GIB = 1024**2, 1024**3
REPLY = "reply.*.>"


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream. 0 is unlimited, except `max_age_s`, where it is for ever."""

    name: str
    subjects: tuple[str, ...]
    discard: Literal["old", "new"]
    max_age_s: int = 0
    max_bytes: int = 0
    max_msgs_per_subject: int = 0
    deny_purge: bool = False
    duplicate_window_s: int = 120
    no_ack: bool = False  # for what nobody waits for; a node could aim the ack at any subject of the control plane

    def sized(self, max_bytes: int) -> "StreamSpec":
        return replace(self, max_bytes=max_bytes)


FEED = StreamSpec(
    name="FEED",
    subjects=("feed.pool.*", "feed.fleet.*", "feed.agent.*"),
    discard="old",  # the stored feed serves inspection; nodes follow it live and mend gaps by snapshot
    max_age_s=WEEK_S,
    max_bytes=GIB,
    max_msgs_per_subject=64,
)
AUDIT = StreamSpec(
    name="AUDIT",
    subjects=("audit.*",),
    discard="new",  # a full disk fails the publish and never eats history
    max_bytes=4 * GIB,
    deny_purge=True,
)
# What portals read at their start. As large as what a portal holds in memory, so that hardly more is read than is kept.
TRACES = StreamSpec(
    name="TRACES", subjects=("trace.service.*",), discard="old", max_age_s=DAY_S, max_bytes=8 * MIB, no_ack=True
)
NODE_TRACES = StreamSpec(  # by itself: a node that floods it pushes out spans of nodes only
    name="NODE_TRACES", subjects=("trace.node.*",), discard="old", max_age_s=DAY_S, max_bytes=8 * MIB, no_ack=True
)
ARRIVALS = StreamSpec(
    name="ARRIVALS", subjects=("cp.arrivals",), discard="old", max_age_s=DAY_S, max_bytes=16 * MIB, no_ack=True
)
FOR_PORTALS = (TRACES, NODE_TRACES, ARRIVALS)
STREAMS = (FEED, AUDIT, *FOR_PORTALS)


def streams(kept_for_s: int) -> tuple[StreamSpec, ...]:
    """All streams; what is kept for portals is kept so many seconds, if there is room."""
    return FEED, AUDIT, *(replace(stream, max_age_s=kept_for_s) for stream in FOR_PORTALS)


AccountName = Literal["SYS", "CP", "EDGE"]

EXPORTS: Mapping[AccountName, tuple[str, ...]] = {
    "CP": ("feed.pool.*", "feed.fleet.*", "feed.agent.*", "beacon.*.*", "ask.counters.*", REPLY),
    "EDGE": ("req.*.*.*", "report.*", "trace.node.*", "counters.*"),
}
"""What an account exports as a stream; the other of the two imports all of it. SYS shares nothing."""


@dataclass(frozen=True, slots=True)
class Role:
    """A user of the bus and the least that it needs. `{id}` and `{pool}` stand for a node's own tokens.

    nats-server lets who may subscribe to `audit.*` subscribe to `audit.>` too (measured on 2.15.1). So no subject
    is ever made one token longer than one that a role may hear with a last `*`.
    """

    name: str
    account: AccountName
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def rendered(self, *, node: str = "*", pool: str = "*") -> "Role":
        """The role of one node; without arguments that of all nodes of the role, for one user shared by them."""

        def fill(templates: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(each.replace("{id}", node).replace("{pool}", pool) for each in templates)

        return replace(self, publish=fill(self.publish), subscribe=fill(self.subscribe))


PROVISION = Role(
    name="provision",
    account="CP",
    publish=tuple(f"$JS.API.STREAM.{verb}.{s.name}" for s in STREAMS for verb in ("INFO", "CREATE", "UPDATE")),
    subscribe=("_INBOX.provision.>",),
)
REGISTRY = Role(  # its relay included
    name="registry",
    account="CP",
    publish=(
        *FEED.subjects,
        *AUDIT.subjects,
        "beacon.pool.*",
        "beacon.fleet.*",
        REPLY,
        "trace.service.registry",
        *ARRIVALS.subjects,
        "_INBOX.keyring.>",
        "_INBOX.portal.>",
        *(f"$JS.API.STREAM.{verb}.{s.name}" for s in (FEED, AUDIT) for verb in ("INFO", "MSG.GET")),
    ),
    subscribe=("req.registry.*.*", "report.*", "cp.registry.*", "_INBOX.registry.>"),
)
KEYRING = Role(
    name="keyring",
    account="CP",
    publish=(REPLY, "cp.registry.key", "trace.service.keyring"),
    subscribe=("req.keyring.*.*", "_INBOX.keyring.>"),
)
PORTAL = Role(
    name="portal",
    account="CP",
    publish=(
        "cp.registry.command",
        "cp.registry.history",
        "cp.registry.people",
        "ask.counters.*",
        "trace.service.portal",
        *(f"$JS.API.STREAM.{verb}.{s.name}" for s in FOR_PORTALS for verb in ("INFO", "MSG.GET")),
    ),
    subscribe=("report.*", "counters.*", "audit.*", "trace.*.*", "_INBOX.portal.>"),
)
AUDITOR = Role(
    name="auditor",
    account="CP",
    publish=("$JS.API.STREAM.INFO.AUDIT", "$JS.API.STREAM.MSG.GET.AUDIT"),
    subscribe=("audit.*", "_INBOX.auditor.>"),
)
GATEWAY = Role(
    name="gateway",
    account="EDGE",
    publish=(
        "req.keyring.announce.{id}",
        "req.registry.snapshot.{id}",
        "req.registry.renew.{id}",
        "req.registry.witness.{id}",
        "report.{id}",
        "counters.{id}",
        "trace.node.{id}",
    ),
    subscribe=("feed.pool.{pool}", "beacon.pool.{pool}", "ask.counters.{pool}", "reply.{id}.>"),
)
AGENT = Role(
    name="agent",
    account="EDGE",
    publish=(
        "req.keyring.announce.{id}",
        "req.registry.snapshot.{id}",
        "req.registry.renew.{id}",
        "report.{id}",
        "trace.node.{id}",
    ),
    subscribe=("feed.fleet.{pool}", "feed.agent.{id}", "beacon.fleet.{pool}", "reply.{id}.>"),
)
CLAIMS = Role(  # the registry's other user, for revocations
    name="claims",
    account="SYS",
    publish=("$SYS.REQ.CLAIMS.UPDATE",),
    subscribe=("_INBOX.claims.>",),
)
ROLES = (PROVISION, REGISTRY, KEYRING, PORTAL, AUDITOR, GATEWAY, AGENT, CLAIMS)


def inbox_prefix(role: Role) -> str:
    """Where answers to a role of the control plane go. Nodes have `wire.subjects.reply_prefix` instead."""
    return f"_INBOX.{role.name}"
